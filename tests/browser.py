"""A headless Chromium of its own, and what it saw."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.command import Command

from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE

_CHROMIUM: Final = Path("/usr/bin/chromium")
_DRIVER: Final = Path("/usr/bin/chromedriver")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP: Final = (1440, 900)
PHONE: Final = (360, 780)


class Browser:
    """A page in Chromium."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def size(self, width: int, height: int) -> None:
        """As if the screen had so many pixels; narrow ones are phones."""
        self._emulate(
            "setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def await_width(self, width: int) -> None:
        """Until the page has been laid out anew."""
        self.await_that(lambda: self.run("innerWidth") == width)

    def prefer(self, **features: str) -> None:
        """As if the user preferred, such as color_scheme="dark"."""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self._emulate("setEmulatedMedia", features=named)

    def _emulate(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(f"Emulation.{command}", parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script in the page."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def figures(self) -> dict[str, tuple[Any, str]]:
        """Exact value and shown text of everything that is a statistic."""
        found = self.run(
            "[...document.querySelectorAll('[data-figure]')].map("
            "(node) => [node.dataset.figure, node.dataset.value, node.textContent])"
        )
        return {name: (json.loads(value or "null"), text) for name, value, text in found}

    def await_that(self, condition: Callable[[], object]) -> None:
        """Until it is so; the page may change while it is looked at."""

        def holds() -> bool:
            try:
                return bool(condition())
            except StaleElementReferenceException:
                return False

        assert wait_until(holds, PATIENCE), self.text("body")

    def errors(self) -> list[str]:
        """What the console has complained of since last asked."""
        return self._logged("browser")

    def requested(self) -> list[str]:
        """Every address that the page has asked for since last asked."""
        messages = [json.loads(entry)["message"] for entry in self._logged("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def _logged(self, kind: str) -> list[str]:
        entries = self.driver.execute(Command.GET_LOG, {"type": kind})["value"]
        return [entry["message"] for entry in entries]

    def screenshot(self, path: Path) -> None:
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser_in(directory: Path) -> Iterator[Browser]:
    """A browser with a fresh profile; a skip where there is none."""
    if not (_CHROMIUM.exists() and _DRIVER.exists()):
        pytest.skip("no browser; install the Debian packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(_CHROMIUM)
    for flag in (*_FLAGS, f"--user-data-dir={directory}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(_DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
        shutil.rmtree(directory, ignore_errors=True)
