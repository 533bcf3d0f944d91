"""A WebUI's page as a user handles it. Knows the hosts' element ids and ours, and nothing else of them."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from nag_core.settings.parse import FIELD

# (part of the message, part of the address it is about): the hosts' own, seen without the extension as well.
KNOWN_ERRORS = (
    ("404", "/webui-assets/css/sourcesanspro.css"),
    ("404", "/favicon.ico"),
    ("404", "/manifest.json"),
    ("Wake Lock is not supported", "file=javascript/progressbar.js"),
)
# gradio 3.41 in handle_update, from the hosts' own size sliders and Hires. fix, with NAG untouched as well.
GRADIO_3_NOISE = "Cannot read properties of undefined (reading 'props')"
# gradio 3: how many requests a page sends by itself.
QUEUED_AT_LOADING = """window.gradio_config.dependencies.filter(
    one => one.trigger === "load" && !one.targets.length && one.backend_fn && one.queue !== false
).length"""
SEEDS = itertools.count(int(time.time()) % 100_000)


class Page:
    """`raw` is Playwright's page; `tab` the generation tab that the methods mean."""

    def __init__(self, raw: Any, url: str) -> None:
        self.raw, self.url, self.tab = raw, url, "txt2img"
        self.errors: list[str] = []
        self._asked: list[Any] = []  # gradio 3's requests of this document, a websocket each
        raw.on("websocket", self._asks)
        raw.on("framenavigated", lambda frame: self._asked.clear() if frame == raw.main_frame else None)
        raw.on("console", self._heard)
        raw.on("pageerror", lambda error: self.errors.append(f"{error}\n{getattr(error, 'stack', '')}"))

    def _asks(self, socket: Any) -> None:
        if "/queue/join" in socket.url:
            self._asked.append(socket)

    def _heard(self, message: Any) -> None:
        address = message.location.get("url", "")
        own = address.startswith(self.url) or not address
        known = any(text in message.text and part in address for text, part in KNOWN_ERRORS)
        if message.type == "error" and own and not known:
            self.errors.append(f"{message.text} ({address})")

    def excuse_gradio_3(self) -> None:
        """Forgets the one error that the host's own controls cause; to be called right after using them."""
        self.errors[:] = [error for error in self.errors if GRADIO_3_NOISE not in error]

    def open(self) -> None:
        self.leave_queue()
        self.raw.goto(self.url)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """The tick is made by the host's script after everything else; gradio listens a moment later."""
        self.tick.wait_for(timeout=60_000)
        if not self.is_gradio_4:
            of_loading = self.raw.evaluate(QUEUED_AT_LOADING)
            self.until(lambda: len(self._asked) >= of_loading, True, seconds=60)
        self.raw.wait_for_timeout(1000)

    def restart(self, button: Any) -> None:
        """Has the host make its page anew by `button`, and opens the new one.

        The host's own script would reload it at the first answer to its pings, which on a busy machine is one
        of the server that is about to end: it gets none.
        """
        old = self._app_id()
        assert old is not None
        self.leave_queue()
        self.raw.route("**/internal/ping", lambda route: route.abort())
        before = len(self._asked)
        button.dispatch_event("click")
        if self.is_gradio_4:
            self.raw.wait_for_timeout(1000)
        else:
            self.until(lambda: len(self._asked) > before, True)
            self.leave_queue()
        self.raw.goto("about:blank")
        self.raw.unroute("**/internal/ping")
        self.until(lambda: self._app_id() not in (None, old), True, seconds=120)
        self.open()

    def _app_id(self) -> int | None:
        """gradio's random number of the server that answers now, if one does."""
        try:
            return httpx.get(f"{self.url}/app_id", timeout=5).json()["app_id"]
        except (httpx.TransportError, ValueError, KeyError):
            return None

    def leave_queue(self) -> None:
        """Waits until the host's queue has had nothing of this page's for a second.

        gradio 3.41 never ends the request of a page that is gone before its turn has begun (`join_queue` of
        its routes.py), and its server waits for all requests when it closes: with or without NAG, Reload UI
        would hang for ever. gradio 4 asks over plain HTTP.
        """
        if self.raw.is_closed() or self.raw.url == "about:blank" or self.is_gradio_4:
            return
        self.settles(lambda: [one.url for one in self._asked if not one.is_closed()], [], seconds=60)

    def go_to(self, tab: str) -> None:
        """Shows a generation tab; a page opens with txt2img."""
        self.tab = tab
        name = re.compile(rf"^\s*{tab}\s*$", re.I)
        self.raw.locator("#tabs button", has_text=name).first.click()

    @property
    def is_gradio_4(self) -> bool:
        return self.raw.evaluate("window.gradio_config?.version ?? ''").startswith("4.")

    def has(self, elem_id: str) -> bool:
        """Whether the page is made with such a component, shown already or not."""
        look = "id => window.gradio_config.components.some(one => one.props.elem_id === id)"
        return self.raw.evaluate(look, elem_id)

    # NAG's controls

    def id(self, name: str) -> str:
        return f"#script_{self.tab}_nag_{name}"

    @property
    def tick(self) -> Any:
        return self.raw.locator(f"{self.id('enabled')}-visible-checkbox")

    @property
    def header(self) -> Any:
        return self.raw.locator(f"{self.id('enabled')} .label-wrap").first  # Advanced has one, too

    @property
    def is_open(self) -> bool:
        return "open" in self.header.get_attribute("class").split()

    def open_accordion(self) -> None:
        if not self.is_open:
            self.header.locator("span").last.click()
        self.until(lambda: self.is_open, True)

    def get(self, name: str) -> Any:
        """The value of one of NAG's fields as the page shows it."""
        kind = FIELD[name].kind
        if name == "enabled":
            return self.tick.is_checked()
        if kind == "bool":
            return self.raw.is_checked(f"{self.id(name)} input")
        if kind == "float":
            return float(self.raw.input_value(f"{self.id(name)} input[type=number]"))
        return self.raw.input_value(f"{self.id(name)} {'textarea' if kind == 'text' else 'input'}")

    def set(self, name: str, value: Any) -> None:
        """Sets one of NAG's fields by hand."""
        kind = FIELD[name].kind
        if name == "enabled":
            self.tick.set_checked(value)
        elif kind == "bool":
            self.raw.set_checked(f"{self.id(name)} input", value)
        elif kind == "float":
            self.raw.fill(f"{self.id(name)} input[type=number]", str(value))
        elif kind == "text":
            self.raw.fill(f"{self.id(name)} textarea", value)
        else:
            self.raw.click(f"{self.id(name)} input")
            self.raw.click(f'{self.id(name)} li[aria-label="{value}"]')

    def values(self, *names: str) -> dict[str, Any]:
        return {name: self.get(name) for name in names}

    @property
    def summary(self) -> str:
        return self.raw.locator(self.id("summary")).inner_text()

    @property
    def auto(self) -> str:
        """What stands behind the summary, of the loaded model; it is made with the first summary."""
        return "".join(self.raw.locator(self.id("auto")).all_inner_texts())

    # The host's controls

    def fill(self, elem_id: str, value: Any) -> None:
        """Fills a host's text box or number, by its id."""
        self.raw.locator(f"#{elem_id}").locator("textarea, input:not([type=range])").first.fill(str(value))

    def editable(self, elem_id: str) -> bool:
        return not self.raw.locator(f"#{elem_id} textarea, #{elem_id} input").first.is_disabled()

    def paste(self, infotext: str) -> None:
        """Reads parameters from the prompt box, as the arrow beside it does."""
        if not self.is_gradio_4:
            self.fill(f"{self.tab}_neg_prompt", "")  # Classic greys the arrow beside one
        self.fill(f"{self.tab}_prompt", infotext)
        self.raw.click(f"#{self.tab}_tools #paste")
        self.until(lambda: self.raw.input_value(f"#{self.tab}_prompt textarea"), infotext.split("\n")[0])

    def generate(self, **fields: Any) -> str:
        """Draws one small picture with the page as it is; its infotext."""
        seed = next(SEEDS)
        self.raw.wait_for_timeout(500)  # gradio 4 loses a text that is put in while an answer arrives
        job = {
            "prompt": "a circle",
            "steps": 2,
            "width": 64,
            "height": 64,
            "batch_size": 1,
            "seed": seed,
            **fields,
        }
        for name, value in job.items():
            self.fill(f"{self.tab}_{name}", value)
        self.raw.click(f"#{self.tab}_generate")
        place = self.raw.locator(f"#html_info_{self.tab}").first  # gradio 3 writes the id twice
        self.until(lambda: f"Seed: {seed}" in (place.text_content() or ""), True, seconds=60)
        self.excuse_gradio_3()
        return place.text_content()

    def until(self, look: Callable[[], Any], expected: Any, seconds: float = 15) -> None:
        """Waits until `look()` gives what is expected and fails with what it gave instead."""
        deadline = time.monotonic() + seconds
        while (seen := look()) != expected and time.monotonic() < deadline:
            self.raw.wait_for_timeout(50)
        assert seen == expected, f"{seen!r} instead of {expected!r}"

    def settles(self, look: Callable[[], Any], expected: Any, seconds: float = 10) -> None:
        """Waits until `look()` has given what is expected for an unbroken second: answers may come late."""
        deadline, since = time.monotonic() + seconds, None
        while since is None or time.monotonic() < since + 1:
            seen = look()
            since = (since or time.monotonic()) if seen == expected else None
            assert time.monotonic() < deadline or since, f"{seen!r} instead of {expected!r}"
            self.raw.wait_for_timeout(50)
