"""Records the demo's page of rooms for the documentation: a real browser, a real server.

Writes `docs/demo-light.webp` and `docs/demo-dark.webp`. It takes the environment of `make test` and
of `make bench`, which brings Pillow, and Debian's Chromium: `python tools/record.py`.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "examples"), str(ROOT / "tests" / "support")]

SIZE = (720, 640)
INTERVAL = 0.1  # seconds between two pictures
# Who writes what, or what is clicked, and for how many seconds it is then watched.
STORY = (
    ("ada", "Is anybody here?", 1.2),
    ("grace", "Yes, I am", 1.2),
    ("click", "grace-cut", 0.4),
    ("ada", "You are cut off now", 1.2),
    ("ada", "and get this later", 4.0),
    ("click", "away", 5.0),
)
WRITE = """
const [who, text] = arguments;
if (who === "click") document.getElementById(text).click();
else {
  document.getElementById(`${who}-text`).value = text;
  document.getElementById(`${who}-form`).requestSubmit();
}
document.activeElement.blur();
"""
# Where the page scrolls to, and no bars.
LAY_OUT = """
document.head.append(Object.assign(document.createElement("style"),
  { textContent: "* { scrollbar-width: none }" }));
scrollTo(0, document.querySelector("[aria-labelledby=room-title]").offsetTop - 10);
"""


def main() -> None:
    from serving import Server  # type: ignore[import-not-found]

    from browser import Browser  # type: ignore[import-not-found]

    for scheme in ("light", "dark"):
        with tempfile.TemporaryDirectory() as directory, Server("app:app") as server:
            browser = Browser(directory)
            try:
                browser.device(*SIZE, scheme)
                browser.open(f"{server.url}/rooms.html")
                wait_for(browser, "return !document.getElementById('away').disabled")
                browser.run(LAY_OUT)
                pictures = record(browser, Path(directory))
            finally:
                browser.driver.quit()
        save(pictures, ROOT / "docs" / f"demo-{scheme}.webp")


def wait_for(browser: Any, condition: str) -> None:
    for _ in range(300):
        if browser.run(condition):
            return
        time.sleep(0.1)
    raise SystemExit(f"the page did not get so far in 30 s: {condition}")


def record(browser: Any, directory: Path) -> list[tuple[bytes, float]]:
    """Returns each picture that differs from the one before, and how many seconds it stood."""
    pictures = [(shot(browser, directory), 1.0)]
    for who, text, seconds in STORY:
        browser.run(WRITE, who, text)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.monotonic()
            picture = shot(browser, directory)
            time.sleep(max(0.0, INTERVAL + started - time.monotonic()))
            if picture == pictures[-1][0]:
                pictures[-1] = (picture, pictures[-1][1] + time.monotonic() - started)
            else:
                pictures.append((picture, time.monotonic() - started))
    return pictures


def shot(browser: Any, directory: Path) -> bytes:
    path = directory / "picture.png"
    browser.screenshot(path, whole=False)
    return path.read_bytes()


def save(pictures: list[tuple[bytes, float]], path: Path) -> None:
    first, *others = (Image.open(io.BytesIO(picture)).convert("RGB") for picture, _ in pictures)
    durations = [round(1_000 * seconds) for _, seconds in pictures]
    durations[-1] += 3_000  # time to read the end
    first.save(
        path, save_all=True, append_images=others, duration=durations, loop=0, quality=60, method=6
    )
    length = sum(durations) / 1_000
    print(f"{path}: {len(durations)} pictures, {length:.0f} s, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
