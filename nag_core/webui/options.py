"""The extension's page in the WebUI's settings, and reading them where they may not be registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nag_core.settings.parse import Request

SECTION = ("nag", "NAG")


@dataclass(frozen=True, slots=True)
class Option:
    """One setting; `reload`: it is read when the page is built, not when it is used."""

    name: str
    default: bool | str
    label: str
    info: str
    reload: bool = False


ENABLED = Option(
    "nag_enabled_default", False, "Tick NAG whenever the page is loaded", "API requests are not affected"
)
COMMENTS = Option(
    "nag_comments", True, "Say under the pictures what NAG did", "the picture's parameters say it anyway"
)
ADVANCED = Option(
    "nag_show_advanced",
    True,
    "Show method, hires pass, hires scale and Advanced",
    "hidden, they still apply",
    True,
)
NEGATIVE = Option(
    "nag_default_negative",
    "",
    "Default NAG negative prompt",
    "used when both the NAG negative and the main negative are empty, in the page and through the API",
)
OPTIONS = (ENABLED, COMMENTS, ADVANCED, NEGATIVE)


def read(option: Option) -> Any:
    """The user's value. The default where nothing was registered (a server without a page) or stored, and
    where what was stored is of another type.
    """
    from modules import shared

    return _typed(getattr(shared.opts, option.name, option.default), option)


def of_job(p: Any, option: Option) -> Any:
    """The same with `override_settings` of a job whose own the host has not put in force yet."""
    own = getattr(p, "override_settings", None)
    return _typed(own[option.name], option) if own and option.name in own else read(option)


def _typed(value: Any, option: Option) -> Any:
    return value if isinstance(value, type(option.default)) else option.default


def register() -> None:
    """on_ui_settings: the section "NAG"."""
    import gradio as gr
    from modules import shared

    for option in OPTIONS:
        component = gr.Checkbox if isinstance(option.default, bool) else gr.Textbox
        info = shared.OptionInfo(option.default, option.label, component, section=SECTION)
        info.info(option.info)
        if option.reload:
            info.needs_reload_ui()
        shared.opts.add_option(option.name, info)


def with_default_negative(request: Request, p: Any, default: str) -> Request:
    """The job's request, with the default negative where NAG is on and every other negative is empty."""
    text = default.strip()
    asked = request.settings
    if (
        not text
        or not asked.enabled
        or asked.negative.strip()
        or asked.negatives.strip()
        or any(text.strip() for text in asked.each_negative)
        or any(_main_negatives(p))
    ):
        return request
    note = "the default negative of the settings is used"
    return Request(replace(asked, negative=text), (*request.notes, note))


def _main_negatives(p: Any) -> list[str]:
    """Of all batches and of every pass there will be, with styles applied as hosts have done by then."""
    names = ["negative_prompt", "all_negative_prompts"]
    if getattr(p, "enable_hr", False):
        names += ["hr_negative_prompt", "all_hr_negative_prompts"]
    texts: list[Any] = []
    for value in (getattr(p, name, None) or [] for name in names):
        texts += [value] if isinstance(value, str) else value
    return [str(text).strip() for text in texts]
