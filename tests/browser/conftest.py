"""Fixtures: a headless Chromium as installed on the system, and servers for its pages."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins.contrib.dashboard import Dashboard
from goplugins.contrib.dashboard._server import PageServer

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


class Browser:
    """The browser and common steps of the tests."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs a JavaScript function body; returns its result."""
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, **options: Any) -> Any:
        """Sends a command of the Chrome DevTools Protocol; returns its result."""
        return self.driver.execute_cdp_cmd(name, options)

    def wait(self, script: str, *arguments: Any, timeout: float = 10.0) -> Any:
        """Runs the function body until its result is true; returns it; fails after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"not within {timeout} s: {script}"
            time.sleep(0.03)
        return found

    def open(self, url: str, *, live: bool = True) -> None:
        """Opens the page; if ``live``, waits until it shows plugins."""
        self.driver.get(url)
        if live:
            self.wait("return document.querySelectorAll('#plugins > li').length")

    def size(self, width: int, height: int = 900) -> None:
        """Sets the size of the window; a width below 500 emulates a phone."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def prefer(self, **features: str) -> None:
        """Sets media features, such as ``color_scheme="dark"``."""
        wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=wanted)

    def logged(self) -> list[str]:
        """Messages logged by the browser since the last call, such as policy violations and script errors."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def wait_logged(self, *texts: str) -> None:
        """Waits until the browser has logged one message that contains all texts."""
        messages: list[str] = []
        end = time.monotonic() + 10.0
        while not any(all(text in message for text in texts) for message in messages):
            assert time.monotonic() < end, f"not logged within 10 s: {texts}; logged: {messages}"
            time.sleep(0.03)
            messages += self.logged()

    def row(self, name: str) -> str:
        """JavaScript expression for the row of a plugin."""
        return f"[...document.querySelectorAll('.plugin')].find(e => e.querySelector('.name').textContent === {name!r})"

    def open_row(self, name: str) -> None:
        """Opens the row, as a click does, and waits for its details."""
        self.wait(f"return {self.row(name)}")
        self.run(f"{self.row(name)}.open = true")
        self.wait_details(name)

    def wait_details(self, name: str) -> None:
        """Waits until the details of an opened row are shown: the page appends them in a later event, ``toggle``."""
        self.wait(f"return {self.row(name)}.querySelector('.more')")

    def open_all(self) -> None:
        """Opens each ``details`` of the page and those within, and waits for what the events ``toggle`` append."""
        opening = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
        self.run(opening)
        self.wait("return [...document.querySelectorAll('.plugin')].every((each) => each.querySelector('.more'))")
        self.run(opening)
        self.wait("return [...document.querySelectorAll('details pre')].every((each) => each.textContent.length > 2)")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pytest.skip("needs selenium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(binary)
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        started = webdriver.Chrome(options=options, service=Service(str(driver)))
        yield started
        started.quit()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    """The browser of the session, with default size and an empty log."""
    browser = Browser(chromium)
    browser.size(1280)
    browser.prefer(color_scheme="light")
    browser.logged()
    yield browser
    chromium.get("about:blank")
    chromium.delete_all_cookies()


@pytest.fixture
def show() -> Iterator[Callable[[Dashboard], str]]:
    """Function that serves an application and returns its URL."""
    with contextlib.ExitStack() as stack:

        def serve(app: Any, port: int = 0) -> str:
            server = stack.enter_context(PageServer(app, "127.0.0.1", port))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
            return server.url

        yield serve
