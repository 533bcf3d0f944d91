"""A headless Chromium of the system, with the page of the WebUI at --webui-url or of a sandbox of its own."""

import shutil
from pathlib import Path

import pytest

from tests.browser.page import Page
from tests.live.client import WebUI
from tests.live.serving import ROOT, sandbox

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def url(request, tmp_path_factory):
    given = request.config.getoption("--webui-url")
    if not given:
        with sandbox(tmp_path_factory.mktemp("sandbox"), ROOT / "scripts") as own:
            yield own
        return
    checkpoint = request.config.getoption("--checkpoint")
    if checkpoint:
        WebUI(given).post("options", {"sd_model_checkpoint": checkpoint}).raise_for_status()
    yield given.rstrip("/")


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extras webui3 and webui4")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium, url):
    """Makes pages of one window; afterwards their consoles must be free of errors.

    They reach the WebUI only: hosts' pages ask for fonts and scripts from elsewhere.
    """
    context = chromium.new_context(viewport={"width": 1400, "height": 1400})
    context.set_default_timeout(20_000)
    context.route(lambda asked: not asked.startswith(url), lambda route: route.abort())
    pages = []

    def make():
        pages.append(Page(context.new_page(), url))
        return pages[-1]

    yield make
    try:
        for page in pages:
            page.leave_queue()
    finally:
        context.close()
        assert [error for page in pages for error in page.errors] == []


@pytest.fixture
def page(new_page):
    """The opened page."""
    page = new_page()
    page.open()
    return page


@pytest.fixture
def screenshots(request, tmp_path):
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
