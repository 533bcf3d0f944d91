"""The accordion. Built from the field table; holds no state and wires nothing outside itself."""

from __future__ import annotations

from typing import Any

from nag_core.hosts import which
from nag_core.hosts.base import Host
from nag_core.settings.parse import FIELD, FIELDS, OVERRIDES_SLOT, Field
from nag_core.settings.user_presets import Store
from nag_core.webui import infotext, mask_image, options, preset_controls, prompt_box

_HIRES = (("hires", "hires_scale"), ("hires_tau", "hires_alpha"))
# Two to a row at most: in a third of the settings column the labels break.
_ROWS = (
    ("preset", "method"), ("scale", "vsf_offset"), ("tau", "alpha"), ("start", "end"), ("negative",), *_HIRES,
)  # fmt: skip


def build(script: Any, store: Store) -> tuple[list[Any], list[tuple[Any, Any]], list[Any]]:
    """The script's components in positional order, its infotext_fields and its paste_field_names.

    Runs several times per page (hosts build scripts again for the API's defaults), so it only creates
    components.
    """
    import gradio as gr
    from modules.ui_components import InputAccordion

    made: dict[str, Any] = {}
    host = which.detected() or Host  # what holds for most, where the WebUI is not known
    advanced = options.read(options.ADVANCED)
    with InputAccordion(False, label="NAG", elem_id=script.elem_id("enabled")) as made["enabled"]:
        if host.notice:
            gr.HTML(host.notice.format(", ".join(FIELD[name].label for name in host.lacks)))
        for row in _ROWS:
            with gr.Row(visible=row not in _HIRES or (advanced and not script.is_img2img)):
                made.update({name: _component(gr, script, FIELD[name], store, host) for name in row})
            if "preset" in row:
                tools = preset_controls.build(gr, script)
        with gr.Accordion("Advanced", open=False, visible=advanced, elem_id=script.elem_id("advanced")):
            made.update({f.name: _component(gr, script, f, store, host) for f in FIELDS if f.advanced})
            if "mask_image" not in host.lacks:
                _mask_upload(gr, script, made["mask_image"])
        overrides = gr.Textbox("", label="Overrides", visible=False, elem_id=script.elem_id("overrides"))
        overrides.do_not_save_to_config = True
    preset_controls.link(gr, made, tools, store)
    _on_page_load(gr, made, store)
    _announce_changes(gr, made)
    components = [made[field.name] for field in FIELDS]
    components.insert(OVERRIDES_SLOT, overrides)
    fields = [(made[field.name], infotext.READERS[field.name]) for field in FIELDS]
    return components, fields, [reader for _, reader in fields]


def _component(gr: Any, script: Any, field: Field, store: Store, host: type[Host] | Host) -> Any:
    # Arguments have their places: what does nothing here is hidden, not left out.
    works = field.name not in host.lacks
    named = {"label": field.label, "elem_id": script.elem_id(field.name), "visible": works}
    if field.kind == "choice":
        of_presets = field.name == "preset"
        named["visible"] = works and (of_presets or options.read(options.ADVANCED))
        choices = preset_controls.choices(store) if of_presets else list(field.choices)
        info = field.help if field.name == "method" else None
        return gr.Dropdown(choices, value=field.default, info=info, **named)
    if field.kind == "text":
        hint = field.help if field.advanced else host.negative_hint
        own = {"elem_classes": [prompt_box.PROMPT]} if field.name in prompt_box.BOXES else {}
        box = gr.Textbox(field.default, lines=field.lines, placeholder=hint, **named, **own)
        box.do_not_save_to_config = field.advanced
        if own:
            prompt_box.add_counter(gr, script, field.name, box)
        return box
    if field.kind == "bool":
        return gr.Checkbox(field.default, info=field.help, **named)
    slider = gr.Slider(field.minimum, field.maximum, value=field.default, step=field.step, **named)
    # Ranges and defaults frozen in a user's ui-config.json would outlive every release of ours.
    slider.do_not_save_to_config = True
    return slider


def _mask_upload(gr: Any, script: Any, text: Any) -> None:
    """Where a mask can be dropped. Only its text is an argument: those are JSON."""
    image = gr.Image(
        label="Drop a mask here: white is inside",
        type="pil",
        image_mode=None,  # as it was dropped: its alpha channel, too
        elem_id=script.elem_id("mask_upload"),
        height=160,
    )
    image.do_not_save_to_config = True

    def read(picture: Any) -> str:
        return "" if picture is None else mask_image.encoded(mask_image.flat(picture))

    image.change(read, inputs=[image], outputs=[text], queue=False, show_progress=False)


def _on_page_load(gr: Any, made: dict[str, Any], store: Store) -> None:
    """Ticks the box where the settings ask for it, and lists the presets that were saved since the page was
    built.

    The tick is an event of the loaded page and not the control's value on purpose. Hosts take the API's
    defaults from the `value` of controls that they make by running ui() again, and publish those of the page
    as script-info. An event is sent by browsers only, and those of the throw-away runs go with their page.
    """
    from gradio.context import Context

    page = Context.root_block
    if page is None:
        return

    def loaded() -> list[Any]:
        ticked = gr.update(value=True) if options.read(options.ENABLED) else gr.update()
        return [ticked, gr.update(choices=preset_controls.choices(store))]

    page.load(
        loaded, inputs=None, outputs=[made["enabled"], made["preset"]], queue=False, show_progress=False
    )


def _announce_changes(gr: Any, made: dict[str, Any]) -> None:
    """Tells javascript/nag.js of changes that no hand made: a tick, a filled slider, a pasted picture."""
    told = "() => { document.dispatchEvent(new Event('nag-changed')); return []; }"
    for name, component in made.items():
        if name != "negative":
            component.change(None, inputs=[], outputs=[], _js=told, queue=False, show_progress=False)
