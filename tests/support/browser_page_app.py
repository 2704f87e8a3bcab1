"""The application of `docs/browser.md`, with its scripts and its page, for a browser."""

from __future__ import annotations

import re

from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from pages import DOCS, PROJECT, all_blocks, run_blocks

PAGE = DOCS / "browser.md"
page = run_blocks(PAGE)
app = page["app"]

#: The two functions of React that the page's hook uses, as React has them.
REACT = """
const hooks = { states: [], effects: [] };
let at = 0;
export function render(component) {
  [at, hooks.pending] = [0, []];
  hooks.result = component();
  for (const effect of hooks.pending) effect();
  return hooks.result;
}
export function useState(first) {
  const place = at++;
  if (!(place in hooks.states)) hooks.states[place] = first;
  const set = (next) => {
    hooks.states[place] = typeof next === "function" ? next(hooks.states[place]) : next;
  };
  return [hooks.states[place], set];
}
export function useEffect(effect, needs) {
  const place = at++;
  const before = hooks.effects[place];
  if (before && needs.every((need, number) => need === before.needs[number])) return;
  hooks.pending.push(() => {
    before?.end();
    hooks.effects[place] = { needs, end: effect() };
  });
}
"""


def script_named(word: str) -> str:
    """The first script on the page that has this word and names no file."""
    blocks = [block.code for block in all_blocks(PAGE) if block.language == "js"]
    return next(code for code in blocks if word in code and "/**" not in code)


@app.get("/", response_class=HTMLResponse)
async def empty() -> str:
    imports = '<script type="importmap">{"imports": {"react": "/react.js"}}</script>'
    return f"<!doctype html><link rel=icon href=data:><title>test</title>{imports}"


@app.get("/run.html", response_class=HTMLResponse)
async def run_page() -> str:
    return next(block.code for block in all_blocks(PAGE) if block.language == "html")


@app.get("/react.js")
async def react() -> Response:
    return Response(REACT, media_type="text/javascript")


@app.get("/{word}-of-the-page.js")
async def script(word: str) -> Response:
    # What a script of the page calls without defining it, the test does.
    code = re.sub(r"^const (stop|stopAll|source) =", r"window.\1 =", script_named(word), flags=re.M)
    return Response(code, media_type="text/javascript")


app.mount("/", StaticFiles(directory=PROJECT / "examples" / "page"))
