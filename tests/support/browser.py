"""Debian's Chromium, without a window, as the tests drive it."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from browser_setup import find

LISTEN = """
const [url, names] = arguments;
const source = new EventSource(url);
const log = [];
for (const name of ["open", "error", "message", ...names]) {
  source.addEventListener(name, (event) => log.push({
    type: name, data: event.data, id: event.lastEventId, state: source.readyState,
    at: performance.now(),
  }));
}
(window.sources ??= []).push(source);
(window.logs ??= []).push(log);
"""


class Browser:
    def __init__(self, directory: str) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = find("browser")
        options.add_argument("--headless=new")
        options.add_argument("--no-sandbox")  # which root cannot have
        options.add_argument("--disable-dev-shm-usage")  # small in containers
        # A page that was left would keep its connections, of which there are six to an origin.
        options.add_argument("--disable-features=BackForwardCache")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(
            executable_path=find("driver"), env={**os.environ, "TMPDIR": directory}
        )
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(60)
        self.run = self.driver.execute_script

    def open(self, url: str) -> None:
        self.driver.get(url)

    def listen(self, path: str, *names: str) -> None:
        """Opens an EventSource on the page, and logs every event of it and of these names."""
        self.run(LISTEN, path, names)

    def log(self, number: int = 0) -> list[dict[str, Any]]:
        return self.run("return logs[arguments[0]]", number)  # type: ignore[no-any-return]

    def logged(self, kind: str, number: int = 0) -> list[dict[str, Any]]:
        return [each for each in self.log(number) if each["type"] == kind]

    def data(self, number: int = 0) -> list[Any]:
        return self.run(  # type: ignore[no-any-return]
            "return logs[arguments[0]].filter((e) => e.type === 'message').map((e) => e.data)",
            number,
        )

    def script_errors(self) -> list[str]:
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["source"] == "javascript"]

    def device(self, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        command = self.driver.execute_cdp_cmd
        command("Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600})
        feature = {"name": "prefers-color-scheme", "value": scheme}
        command("Emulation.setEmulatedMedia", {"features": [feature]})

    def screenshot(self, path: Path, whole: bool) -> None:
        """The whole page, or what fits into the window."""
        options = {"format": "png", "captureBeyondViewport": whole}
        answer = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        path.write_bytes(base64.b64decode(answer["data"]))
