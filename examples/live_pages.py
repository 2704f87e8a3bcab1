"""The live pages: one layout, and a section for each."""

from pathlib import Path
from string import Template

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).parent / "page"
# By their names, which their files and scripts have too. The first is at "/".
TITLES = {
    "tokens": "Tokens",
    "chat": "Chat",
    "runs": "Runs",
    "rooms": "Rooms",
    "boards": "Boards",
    "speed": "Speed",
    "examples": "Examples",
}
FIRST = next(iter(TITLES))

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/{name}.html")
def show(name: str = FIRST) -> HTMLResponse:
    if name not in TITLES:
        raise HTTPException(404)
    layout = Template((PAGE / "layout.html").read_text(encoding="utf-8"))
    section = (PAGE / f"{name}.html").read_text(encoding="utf-8")
    links = "\n".join(_link(each, is_current=each == name) for each in TITLES)
    return HTMLResponse(
        layout.substitute(name=name, title=TITLES[name], links=links, section=section)
    )


def _link(name: str, is_current: bool) -> str:
    href = "./" if name == FIRST else f"{name}.html"
    current = ' aria-current="page"' if is_current else ""
    return f'    <a href="{href}"{current}>{TITLES[name]}</a>'
