"""Events a script may subscribe to with `on_*`, and the dispatchers the host fires them with.

A failing subscriber is reported and the rest still run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import errors


@dataclass
class ScriptCallback:
    """One subscription: the file it came from and what to call."""

    script: str
    callback: Callable[..., Any]
    name: str = "unnamed"


class CFGDenoiserParams:
    """What one denoiser call is about to see; subscribers may replace the fields."""

    def __init__(
        self,
        x: Any,
        image_cond: Any,
        sigma: Any,
        sampling_step: int,
        total_sampling_steps: int,
        text_cond: Any,
        text_uncond: Any,
        denoiser: Any = None,
    ) -> None:
        self.x, self.image_cond, self.sigma = x, image_cond, sigma
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond, self.denoiser = text_cond, text_uncond, denoiser


EVENTS = ("app_started", "ui_settings", "cfg_denoiser", "infotext_pasted", "before_ui")
callback_map: dict[str, list[ScriptCallback]] = {f"callbacks_{event}": [] for event in EVENTS}


def clear_callbacks() -> None:
    """Forget every subscription."""
    for callbacks in callback_map.values():
        callbacks.clear()


def _caller_file() -> str:
    return next((frame.filename for frame in inspect.stack() if frame.filename != __file__), "unknown file")


def _subscriber(event: str) -> Callable[..., None]:
    def subscribe(callback: Callable[..., Any], *, name: str | None = None) -> None:
        callback_map[f"callbacks_{event}"].append(ScriptCallback(_caller_file(), callback, name or "unnamed"))

    subscribe.__doc__ = f"Call `callback` on every '{event}' event."
    return subscribe


def _dispatcher(event: str) -> Callable[..., list[Any]]:
    def dispatch(*args: Any, **kwargs: Any) -> list[Any]:
        results = []
        for entry in list(callback_map[f"callbacks_{event}"]):
            try:
                results.append(entry.callback(*args, **kwargs))
            except Exception:
                errors.report(f"Error executing callback {event} for {entry.script}", exc_info=True)
        return results

    dispatch.__doc__ = f"Fire the '{event}' event."
    return dispatch


on_app_started = _subscriber("app_started")
on_ui_settings = _subscriber("ui_settings")
on_cfg_denoiser = _subscriber("cfg_denoiser")
on_infotext_pasted = _subscriber("infotext_pasted")
on_before_ui = _subscriber("before_ui")

app_started_callback = _dispatcher("app_started")
ui_settings_callback = _dispatcher("ui_settings")
cfg_denoiser_callback = _dispatcher("cfg_denoiser")
infotext_pasted_callback = _dispatcher("infotext_pasted")
before_ui_callback = _dispatcher("before_ui")


def remove_callbacks_for_function(callback_func: Callable[..., Any]) -> None:
    """Remove one function from every event."""
    for callbacks in callback_map.values():
        callbacks[:] = [entry for entry in callbacks if entry.callback != callback_func]
