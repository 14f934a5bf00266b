"""A headless Chromium that tells everything a page asks for and complains about."""

import os
import shutil
from dataclasses import dataclass, field

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Opened:
    """A page that has been loaded, and what happened meanwhile."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def count(self, selector):
        return self.page.locator(selector).count()


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by playwright; a machine without it skips, but CI must not."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("COSPIPE_REQUIRE_BROWSER"):
        pytest.fail("chromium is missing")
    if found is None:
        pytest.skip("chromium is missing (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # without a sandbox, because containers run as root; only our own page is opened
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file and waits until its charts are drawn."""
    contexts = []

    def opener(file, colours="light", charts=()):
        context = browser.new_context(color_scheme=colours, viewport={"width": 1280, "height": 900}, offline=True)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(file.absolute().as_uri())
        for chart in charts:
            opened.page.wait_for_selector(f"#chart-{chart} svg.main-svg", timeout=60_000)
        return opened

    yield opener
    for context in contexts:
        context.close()
