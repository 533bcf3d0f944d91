"""The preset dropdown's behaviour, and the controls beside it that save, rename and delete the user's own.

None of these controls is an argument of a job. A user preset reaches a job by its name, like a built-in one.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nag_core.settings import presets
from nag_core.settings.parse import FIELD
from nag_core.settings.user_presets import OPTIONAL, STRENGTHS, Store

HELD = (*STRENGTHS, *OPTIONAL)
QUIET = {"queue": False, "show_progress": False}


def choices(store: Store) -> list[str]:
    """What the dropdown offers: the built-in names, then the user's."""
    return [*FIELD["preset"].choices, *store.load()]


def supplied(preset: Any, store: Store) -> dict[str, Any]:
    """The fields a preset sets whatever model is loaded, with their values."""
    return presets.values(preset) or store.load().get(preset, {})


def build(gr: Any, script: Any) -> dict[str, Any]:
    """The controls that stand below the dropdown, by name; "message" is where they answer."""
    from modules.ui_components import ToolButton

    def button(name: str, symbol: str, tooltip: str) -> Any:
        return ToolButton(value=symbol, elem_id=script.elem_id(f"preset_{name}"), tooltip=tooltip)

    with gr.Row():
        made = {
            "name": gr.Textbox(
                "",
                label="Preset name",
                show_label=False,
                elem_id=script.elem_id("preset_name"),
                max_lines=1,
                placeholder="Name for a preset of your own",
            ),
            "save": button("save", "💾", "Save the values below as a preset of this name"),
            "rename": button("rename", "✏️", "Give the chosen preset of yours this name"),
            "delete": button("delete", "🗑️", "Delete the chosen preset of yours"),
        }
    made["message"] = gr.HTML("", elem_id=script.elem_id("preset_message"))
    for control in made.values():
        control.do_not_save_to_config = True
    return made


def link(gr: Any, made: dict[str, Any], tools: dict[str, Any], store: Store) -> None:
    """Wires the dropdown to the controls it fills, and the buttons to the dropdown and the message."""
    held = [made[name] for name in HELD]
    last = gr.State({})
    _link_choice(gr, made, held, last, store)
    act = _action(gr, store)
    for name, change in (("save", _save), ("rename", _rename), ("delete", _delete)):
        tools[name].click(
            act(change),
            inputs=[made["preset"], tools["name"], *held],
            outputs=[made["preset"], tools["name"], tools["message"], last],
            **QUIET,
        )


def _link_choice(gr: Any, made: dict[str, Any], held: list[Any], last: Any, store: Store) -> None:
    """A preset fills what it sets; moving that by hand leaves the preset. `input` fires for users only."""

    def fill(preset: str, before: dict[str, Any], *current: Any) -> list[Any]:
        if preset == presets.CUSTOM:
            return [gr.update()] * (len(HELD) + 1)
        new = supplied(preset, store)
        shown = dict(zip(HELD, current, strict=True))
        # What only the preset before had set goes back; else its window would quietly stay in force.
        stale = {n: FIELD[n].default for n in OPTIONAL if n in before and before[n] == shown[n]}
        values = {**stale, **new}
        return [*(gr.update(value=values[n]) if n in values else gr.update() for n in HELD), new]

    made["preset"].input(fill, inputs=[made["preset"], last, *held], outputs=[*held, last], **QUIET)
    for name in STRENGTHS:
        made[name].input(lambda: presets.CUSTOM, inputs=[], outputs=[made["preset"]], **QUIET)
    for name in OPTIONAL:
        made[name].input(_leaver(gr, name, store), inputs=[made["preset"]], outputs=[made["preset"]], **QUIET)


def _leaver(gr: Any, name: str, store: Store) -> Callable[[str], Any]:
    """What becomes of the preset when the field `name` is moved by hand."""

    def leave(preset: str) -> Any:
        if name not in supplied(preset, store):
            return gr.update()
        variant = presets.VARIANTS.get(preset)
        # Under Auto the sliders do not show the strength: Custom would change more than what was moved.
        return presets.AUTO if variant and variant.family == presets.AUTO else presets.CUSTOM

    return leave


Change = Callable[[Store, str, str, dict[str, Any]], tuple[str, str]]


def _action(gr: Any, store: Store) -> Callable[[Change], Callable[..., list[Any]]]:
    """Turns a change of the store into an event: dropdown, emptied name box, a sentence, and what the chosen
    preset sets; an error is only said.
    """

    def act(change: Change) -> Callable[..., list[Any]]:
        def event(preset: str, name: str, *current: Any) -> list[Any]:
            try:
                chosen, sentence = change(store, preset, name or "", dict(zip(HELD, current, strict=True)))
            except ValueError as error:
                return [gr.update(), gr.update(), html.escape(f"Not done: {error}."), gr.update()]
            dropdown = gr.update(choices=choices(store), value=chosen)
            return [dropdown, "", html.escape(sentence), supplied(chosen, store)]

        return event

    return act


def _save(store: Store, preset: str, name: str, shown: dict[str, Any]) -> tuple[str, str]:
    """Without a name the chosen preset of the user's is written over."""
    if not name.strip() and preset in store.load():
        name = preset
    name = store.save(name, shown)
    values = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in store.load().get(name, {}).items()
    )
    return name, f"Saved “{name}”: {values}."


def _rename(store: Store, preset: str, name: str, shown: dict[str, Any]) -> tuple[str, str]:
    new = store.rename(preset, name)
    return new, f"“{preset}” is now “{new}”."


def _delete(store: Store, preset: str, name: str, shown: dict[str, Any]) -> tuple[str, str]:
    store.delete(preset)
    return presets.CUSTOM, f"Deleted “{preset}”. Its values are still below: saving them brings it back."
