"""A pipeline's negatives without their padding, by the pipeline's own tokenizers."""

from __future__ import annotations

from typing import Any

from nag_core.hosts.padding import BOTH, CLIP, ENDS, Count, cutter
from nag_core.method.negative import Cut


def of_pipeline(pipe: Any, family: str, remarks: list[str]) -> Cut:
    """For a pipeline whose model presets know as `family`."""

    def counted(text: str) -> Count:
        def tokens(name: str) -> int:
            return len(getattr(pipe, name)(text)["input_ids"])

        if family == "Flux.2 Klein":
            turn = [{"role": "user", "content": text}]
            given = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            text = pipe.tokenizer.apply_chat_template(turn, **given)
            return Count(0, tokens("tokenizer") - 1)
        # Both count what encoders add: two of CLIP's, one of T5's.
        clip = tokens("tokenizer") - ENDS if family in (*CLIP, *BOTH) else 0
        long = {"Flux": "tokenizer_2", "SD3.5": "tokenizer_3"}.get(family)
        return Count(clip, tokens(long) - 1 if long else 0)

    # Wan's pipeline pads with zeros, which need no count.
    return cutter("" if family == "Wan2.1" else family, counted, remarks.append)
