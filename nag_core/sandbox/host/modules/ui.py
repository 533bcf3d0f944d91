"""The token counters behind the page's prompt boxes, for scripts with boxes of their own."""

from __future__ import annotations

from typing import Any

from modules import sd_models


def update_token_counter(text: str, steps: int, styles: list[str], *, is_positive: bool = True) -> str:
    """How long the text is for the model in use, as the host shows it."""
    count, room = sd_models.model_data.sd_model.get_prompt_lengths_on_ui(text)
    return f"<span class='gr-box gr-text-input'>{count}/{room}</span>"


def update_negative_prompt_token_counter(*args: Any) -> str:
    """The same of a negative prompt."""
    return update_token_counter(*args, is_positive=False)
