"""Keeps the host's negative prompt boxes usable at CFG 1 while NAG is on.

Forge greys the main box out at CFG 1 and the hires box at hires CFG 1 (modules/ui.py), because it encodes
no negative there; NAG reads both. Hosts that grey nothing are left alone. What is caught lives in a closure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nag_core.hosts.patcher import forge

_BOX, _SCALE = "box", "scale"


def watch(script: Any, is_img2img: bool) -> None:
    """Catches the boxes of the script's tab and links them with the NAG tick, once the page has all of them.

    To be called from `show()`, once per script: hosts collect the callbacks after it, and `elem_id()` calls
    it again. The gallery is what tells that the page is complete: it is made after every section, in
    whatever order the user has them, and never for the API, whose controls live in a throw-away page.
    """
    if forge.probe() is None:
        return
    tab = "img2img" if is_img2img else "txt2img"
    pairs: list[dict[str, Any]] = [{}]
    _catch(script, pairs[0], f"{tab}_cfg_scale", f"{tab}_neg_prompt")
    if not is_img2img:
        pairs.append({})
        _catch(script, pairs[1], "txt2img_hr_cfg", "hires_neg_prompt")

    def page_is_complete(_: Any) -> None:
        enabled = script.controls[0] if script.controls else None
        for pair in pairs:
            if enabled is not None and len(pair) == 2:
                _link(enabled, pair[_SCALE], pair[_BOX])
            pair.clear()

    script.on_after_component(page_is_complete, elem_id=f"{tab}_gallery")


def _catch(script: Any, pair: dict[str, Any], scale_id: str, box_id: str) -> None:
    def caught(name: str) -> Callable[[Any], None]:
        return lambda event: pair.update({name: event.component})

    script.on_after_component(caught(_SCALE), elem_id=scale_id)
    script.on_after_component(caught(_BOX), elem_id=box_id)


def _link(enabled: Any, scale: Any, box: Any) -> None:
    import gradio as gr

    def usable(is_on: bool, cfg: float) -> Any:
        # Not `> 1`: samplers of the CFG++ kind are used below 1, where the host encodes the negative.
        return gr.update(interactive=bool(is_on) or cfg != 1)

    def kept_usable(is_on: bool) -> Any:
        # With NAG off the host's own answer stands: a second one could only get in the way of someone typing.
        return gr.update(interactive=True) if is_on else gr.update()

    quick = {"queue": False, "show_progress": False}
    enabled.change(usable, inputs=[enabled, scale], outputs=[box], **quick)
    # The host's own answer to the same change must come first: ours is asked for one round trip later. An
    # event after another is dropped while one is under way unless told otherwise, and the slider is dragged.
    changed = scale.change(lambda: None, inputs=[], outputs=[], **quick)
    changed.then(kept_usable, inputs=[enabled], outputs=[box], trigger_mode="always_last", **quick)
