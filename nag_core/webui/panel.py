"""The accordion. Built from the field table; holds no state and wires nothing outside itself."""

from __future__ import annotations

from typing import Any

from nag_core import presets
from nag_core.config import FIELD, FIELDS, OVERRIDES_SLOT, Field
from nag_core.webui import infotext

_NEGATIVE_HINT = "Empty: the main negative prompt. Same syntax: (weights:1.2), [from:to:0.5], BREAK, styles."


def build(script: Any) -> tuple[list[Any], list[tuple[Any, Any]], list[Any]]:
    """The script's components in positional order, its infotext_fields and its paste_field_names.

    Runs several times per page (hosts build scripts again for the API's defaults), so it only creates
    components.
    """
    import gradio as gr
    from modules.ui_components import InputAccordion

    made: dict[str, Any] = {}
    with InputAccordion(False, label="NAG", elem_id=script.elem_id("enabled")) as made["enabled"]:
        made["preset"] = _component(gr, script, FIELD["preset"])
        for row in (("scale", "tau", "alpha"), ("start", "end")):
            with gr.Row():
                made.update({name: _component(gr, script, FIELD[name]) for name in row})
        made["negative"] = _component(gr, script, FIELD["negative"])
        with gr.Row():
            made.update(
                {name: _component(gr, script, FIELD[name]) for name in ("method", "hires", "hires_scale")}
            )
        overrides = gr.Textbox("", label="Overrides", visible=False, elem_id=script.elem_id("overrides"))
        overrides.do_not_save_to_config = True
    _link_preset(gr, made)
    components = [made[field.name] for field in FIELDS]
    components.insert(OVERRIDES_SLOT, overrides)
    fields = [(made[field.name], infotext.READERS[field.name]) for field in FIELDS]
    return components, fields, [reader for _, reader in fields]


def _component(gr: Any, script: Any, field: Field) -> Any:
    elem_id = script.elem_id(field.name)
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), value=field.default, label=field.label, elem_id=elem_id)
    if field.kind == "text":
        return gr.Textbox(
            field.default, label=field.label, lines=2, elem_id=elem_id, placeholder=_NEGATIVE_HINT
        )
    slider = gr.Slider(
        field.minimum, field.maximum, value=field.default, step=field.step, label=field.label, elem_id=elem_id
    )
    # Ranges and defaults frozen in a user's ui-config.json would outlive every release of ours.
    slider.do_not_save_to_config = True
    return slider


def _link_preset(gr: Any, made: dict[str, Any]) -> None:
    """A family fills the sliders; moving a slider by hand makes the preset Custom. `input` fires for users
    only.
    """
    sliders = [made[name] for name in ("scale", "tau", "alpha")]

    def fill(preset: str) -> list[Any]:
        row = presets.TABLE_5.get(preset)
        return (
            [gr.update(value=value) for value in (row.phi, row.tau, row.alpha)] if row else [gr.update()] * 3
        )

    made["preset"].input(fill, inputs=[made["preset"]], outputs=sliders, show_progress=False, queue=False)
    for slider in sliders:
        slider.input(
            lambda: presets.CUSTOM, inputs=[], outputs=[made["preset"]], show_progress=False, queue=False
        )
