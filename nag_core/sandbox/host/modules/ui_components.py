"""Controls of the host's own page that scripts borrow."""

from __future__ import annotations

from functools import wraps
from typing import Any

import gradio as gr

from modules import gradio_extensions

gradio_extensions.install()


class InputAccordionImpl(gr.Checkbox):
    """A hidden checkbox whose value is the argument, and an accordion whose visible tick follows it."""

    unnamed = 0

    # gradio reads from the signature which properties the browser gets.
    @wraps(gr.Checkbox.__init__)
    def __init__(self, value: bool | None = None, setup: bool = False, **kwargs: Any) -> None:
        if not setup:
            super().__init__(value=value, **kwargs)
            return
        self.accordion_id = kwargs.get("elem_id")
        if self.accordion_id is None:
            self.accordion_id = f"input-accordion-{InputAccordionImpl.unnamed}"
            InputAccordionImpl.unnamed += 1
        label = kwargs.pop("label", "Accordion")
        super().__init__(
            value=value, label=label, visible=False, **{**kwargs, "elem_id": f"{self.accordion_id}-checkbox"}
        )
        self.change(
            None, _js=f"(checked) => inputAccordionChecked({self.accordion_id!r}, checked)", inputs=[self]
        )
        self.accordion = gr.Accordion(
            label=label, open=bool(value), elem_id=self.accordion_id, elem_classes=["input-accordion"]
        )

    def extra(self) -> gr.Column:
        """A column shown inside the accordion's header."""
        return gr.Column(
            elem_id=f"{self.accordion_id}-extra", elem_classes="input-accordion-extra", min_width=0
        )

    def __enter__(self) -> InputAccordionImpl:
        self.accordion.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.accordion.__exit__(*exc)

    def get_block_name(self) -> str:
        """The browser knows it as a checkbox."""
        return "checkbox"


def InputAccordion(value: bool | None = None, **kwargs: Any) -> InputAccordionImpl:  # noqa: N802
    """Make one; a function, as on Forge main, so `isinstance` against it fails here too."""
    return InputAccordionImpl(value=value, setup=True, **kwargs)


class ToolButton(gr.Button):
    """A small button with a symbol."""

    @wraps(gr.Button.__init__)
    def __init__(self, value: str = "", *args: Any, elem_classes: Any = None, **kwargs: Any) -> None:
        super().__init__(value, *args, elem_classes=["tool", *(elem_classes or [])], **kwargs)

    def get_block_name(self) -> str:
        """The browser knows it as a button."""
        return "button"
