"""What hosts on gradio 4 add to gradio so that scripts written for gradio 3 keep working.

Events accept `_js`, unknown constructor arguments are dropped, and the script runner hears of every control
as it is created.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
import gradio.component_meta

from modules import scripts


def _announced(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if scripts.scripts_current is not None:
            scripts.scripts_current.after_component(self)

    return wrapped


def _accepting_js(event: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(event)
    def wrapped(*args: Any, _js: str | None = None, **kwargs: Any) -> Any:
        if _js is not None:
            kwargs["js"] = _js
        return event(*args, **kwargs)

    wrapped.__self__ = getattr(event, "__self__", None)
    return wrapped


def _tolerant(init: Callable[..., None]) -> Callable[..., None]:
    known = inspect.signature(init).parameters

    @wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{name: value for name, value in kwargs.items() if name in known})
        for event in self.EVENTS:
            setattr(self, str(event), _accepting_js(getattr(self, str(event))))

    return wrapped


def install() -> None:
    """Patch gradio once per process."""
    if getattr(gr, "_nag_sandbox_patched", False):
        return
    gr._nag_sandbox_patched = True
    # gradio writes a .pyi file beside every module that subclasses a component.
    gradio.component_meta.create_or_modify_pyi = lambda *args: None
    gradio.component_meta.updateable = lambda init: init
    gr.components.Component.__init__ = _announced(gr.components.Component.__init__)
    gr.blocks.BlockContext.__init__ = _announced(gr.blocks.BlockContext.__init__)
    for name in {*gr.components.__all__, *gr.layouts.__all__}:
        cls = getattr(gr, name, None)
        if getattr(cls, "EVENTS", None):
            cls.__init__ = _tolerant(cls.__init__)


install()
