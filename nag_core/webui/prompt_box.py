"""NAG's text boxes as the host's own prompt boxes: its keys that change weights, and its token counter."""

from __future__ import annotations

import re
from typing import Any

from nag_core.hosts import asked
from nag_core.settings.weighted import parse_negatives
from nag_core.webui.spared import spared

# What the hosts' scripts look for (edit-attention.js and edit-order.js), and their style sheets.
PROMPT, COUNTER = "prompt", "token-counter"
BOXES = ("negative", "negatives")
# Only prompt editing by step numbers asks for the steps, and it only makes more texts to count.
_STEPS = 20


def add_counter(gr: Any, script: Any, name: str, box: Any) -> None:
    """The counter of a box and its hidden button; javascript/nag_tokens.js puts them where the host has its
    own, or leaves both hidden where the host has none.
    """
    counter = gr.HTML(
        "<span>0/75</span>", elem_id=script.elem_id(f"{name}_counter"), elem_classes=[COUNTER], visible=False
    )
    button = gr.Button(visible=False, elem_id=script.elem_id(f"{name}_count"))
    count = spared("NAG's boxes have no token counter")(counted_lines if name == "negatives" else counted)
    button.click(count, inputs=[box], outputs=[counter], queue=False, show_progress=False)


def counted(text: str) -> str:
    """The host's own answer for a negative prompt: `12/75` in HTML."""
    from modules import ui

    return asked.call(asked.attribute(ui, "update_negative_prompt_token_counter"), text or "", _STEPS, [])


def counted_lines(text: str) -> str:
    """That of the longest of several negatives."""
    try:
        several = [one.text for one in parse_negatives(text or "")]
    except ValueError:  # a weight is being typed
        several = [text]
    return max(map(counted, several or [""]), key=_tokens)


def _tokens(answer: str) -> int:
    found = re.search(r"(\d+)/", answer)
    return int(found[1]) if found else 0
