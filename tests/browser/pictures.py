"""Pictures of the accordion of a running WebUI, for the pages that are read.

`python -m tests.browser.pictures http://127.0.0.1:7860 forge .github/assets` writes six files, from
accordion-forge-closed-light.png on: closed, open and with Advanced open, light and dark. They show NAG's
controls and nothing that was drawn.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser.conftest import BROWSERS, FLAGS
from tests.browser.page import Page

THEMES = ("light", "dark")
STATES = ("closed", "open", "advanced")


def take(browser: Any, url: str, name: str, folder: Path) -> list[Path]:
    """The files that were written, six."""
    made = []
    for theme in THEMES:
        context = browser.new_context(viewport={"width": 1300, "height": 1600}, color_scheme=theme)
        context.set_default_timeout(60_000)
        # Hosts' pages ask for fonts and scripts from elsewhere.
        context.route(lambda asked: not asked.startswith(url), lambda route: route.abort())
        page = Page(context.new_page(), f"{url}/?__theme={theme}")
        page.open()
        for state in STATES:
            made.append(folder / f"accordion-{name}-{state}-{theme}.png")
            _bring(page, state)
            page.raw.locator(page.id("enabled")).first.screenshot(path=made[-1], animations="disabled")
            _pack(made[-1])
        page.leave_queue()
        context.close()
    return made


def _pack(file: Path) -> None:
    """In a palette, which is a third of the size."""
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(file, optimize=True)


def _bring(page: Page, state: str) -> None:
    if state == "open":
        page.open_accordion()
        page.set("enabled", True)
        page.until(lambda: page.summary, "Auto")
    elif state == "advanced":
        page.raw.locator(f"{page.id('advanced')} .label-wrap").click()
        page.raw.locator(page.id("curve")).wait_for()
    page.raw.wait_for_timeout(1000)  # what opens does so in steps
    page.raw.mouse.move(0, 0)


def main(url: str, name: str, folder: str) -> None:
    """Starts the system's browser for it."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for file in take(browser, url.rstrip("/"), name, Path(folder)):
            sys.stdout.write(f"{file}\n")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
