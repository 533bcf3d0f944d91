"""Reading generation parameters out of a text, and filling the page's controls with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from modules import errors, script_callbacks, shared
from modules.paths import data_path

# The grammar of the hosts' parameter line: `Key: value, Key: "quoted, value", ...`.
KEY = r"\w[\w \-/]+"
QUOTED = r'"(?:[^"\\]|\\.)+"'
PARAMETER = re.compile(rf"(?P<key>{KEY}):\s*(?P<value>{QUOTED}|[^,]*)")
SIZE = re.compile(r"(?P<width>\d+)x(?P<height>\d+)")
type_of_gr_update = type(gr.update())
FEWEST_PARAMETERS = 3
DEFAULTS = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
}
ALWAYS_SENT = ("Prompt", "Negative prompt", "Steps")

# By tab: (control, where its value comes from: an infotext key, or a function of all parameters).
paste_fields: dict[str, list[tuple[Any, Any]]] = {}


def quote(text: Any) -> Any:
    """The value, in JSON quotes when a comma, a colon or a line end would break the line's grammar."""
    if any(mark in str(text) for mark in ",\n:"):
        return json.dumps(text, ensure_ascii=False)
    return text


def unquote(text: str) -> str:
    """The reverse of `quote`."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str, skip_fields: list[str] | None = None) -> dict[str, Any]:
    """Parameters by key: prompt lines, `Negative prompt:` lines, then one line of `key: value, ...`.

    A value of the form 3x4 is stored as two keys with -1 and -2. Missing keys that mean a default are added.
    """
    *lines, last = x.strip().split("\n")
    if len(PARAMETER.findall(last)) < FEWEST_PARAMETERS:
        lines, last = [*lines, last], ""
    prompt, negative = [], None
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            negative = negative or []
        (prompt if negative is None else negative).append(line.removeprefix("Negative prompt:").strip())
    found: dict[str, Any] = {}
    for key, raw in PARAMETER.findall(last):
        value = unquote(raw)
        size = SIZE.fullmatch(value)
        found.update({f"{key}-1": size["width"], f"{key}-2": size["height"]} if size else {key: value})
    found["Prompt"] = "\n".join(prompt)
    found["Negative prompt"] = "\n".join(negative or [])
    for key in shared.opts.infotext_skip_pasting if skip_fields is None else skip_fields:
        found.pop(key, None)
    return {**DEFAULTS, **found}


def pasted_value(component: Any, target: str | Callable[[dict], Any], params: dict[str, Any]) -> Any:
    """What one control becomes: an update with the value in the control's own type, or no change."""
    if callable(target):
        try:
            value = target(params)
        except Exception:
            errors.report(f"Error executing {target}", exc_info=True)
            value = None
    else:
        value = params.get(target)
    if value is None:
        return gr.update()
    if isinstance(value, type_of_gr_update):
        return value
    kind = type(component.value)
    try:
        if kind is bool and value == "False":
            return gr.update(value=False)
        return gr.update(value=float(value) if kind is int else kind(value))
    except (TypeError, ValueError):
        return gr.update()


def read_last_parameters() -> str:
    """The infotext of the latest job."""
    try:
        with open(os.path.join(data_path, "params.txt"), encoding="utf8") as file:
            return file.read()
    except OSError:
        return ""


def connect_paste(button: Any, fields: list[tuple[Any, Any]], input_comp: Any) -> None:
    """Make a button fill the tab from the text in `input_comp`, or from the latest job when that is empty."""

    def paste(text: str) -> list[Any]:
        text = text or read_last_parameters()
        params = parse_generation_parameters(text)
        script_callbacks.infotext_pasted_callback(text, params)
        return [pasted_value(component, target, params) for component, target in fields]

    button.click(paste, [input_comp], [component for component, _ in fields], show_progress="hidden")


def connect_send(button: Any, source_tab: str, target_tab: str, names: list[Any]) -> None:
    """Make a button copy those fields between tabs whose target, key or function, is listed."""
    wanted = [*ALWAYS_SENT, *(["Seed"] if shared.opts.send_seed else []), *names]
    tabs = [
        [field for field, name in paste_fields[tab] if name in wanted] for tab in (source_tab, target_tab)
    ]
    button.click(lambda *values: list(values), tabs[0], tabs[1], show_progress="hidden")
