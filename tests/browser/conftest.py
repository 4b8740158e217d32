"""A browser without a network: Chromium of the system, driven by Playwright."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PHONE_WIDTH, DESKTOP_WIDTH = 390, 1280


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """The browser, or a skip that says what is missing ($REGNET_CHROMIUM names another one)."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    candidates = (os.environ.get("REGNET_CHROMIUM"), *map(shutil.which, CHROMIUM))
    path = next(filter(None, candidates), None)
    if path is None:
        pytest.skip(f"no browser found: install one of {', '.join(CHROMIUM)}")
    with playwright.sync_playwright() as driver:
        # No sandbox: containers forbid it, and the pages are our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def opened(chromium) -> Callable:
    """`with opened(path) as (page, complaints)`: a phone, dark, offline, and what went wrong."""

    @contextmanager
    def open_page(path, width: int = PHONE_WIDTH):
        size = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme="dark", offline=True)
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: _note(complaints, message))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:200]}"))
        page.goto(path.as_uri())
        try:
            yield page, complaints
        finally:
            context.close()

    return open_page


def _note(complaints: list[str], message) -> None:
    if message.type in ("error", "warning"):
        complaints.append(f"{message.type}: {message.text[:300]}")


@pytest.fixture(scope="session")
def overflow() -> Callable:
    """By how many pixels a page is wider than the screen, and what sticks out most."""

    def measure(page) -> tuple[int, str]:
        return tuple(
            page.evaluate(
                """() => {
                  const width = document.documentElement.clientWidth;
                  const excess = document.documentElement.scrollWidth - width;
                  if (excess <= 0) return [0, ""];
                  const right = one => one.getBoundingClientRect().right;
                  const [widest] = [...document.body.querySelectorAll("*")]
                    .sort((one, other) => right(other) - right(one));
                  return [excess, widest.outerHTML.slice(0, 120)];
                }"""
            )
        )

    return measure
