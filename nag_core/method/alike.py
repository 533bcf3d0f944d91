"""Whether a negative came out of the encoder as the prompt did: then there is nothing to steer away from.

Cut-off texts, blanks and network tags do that to different texts, and so does an encoder that does not encode
what it was given. NASA stands aside there, too: all it would do is scale z+ by 1 - phi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from nag_core.method.negative import (
    Entry,
    Negative,
    Scheduled,
    cross_attention_context,
    entry_at,
    entry_number,
)

# Of a token's L1 norm. One text encoded in batches of different sizes differs by rounding, in bf16 by up to
# 0.4 %; another word changes its own token by far more.
ROUNDING = 1e-2


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two contexts (tokens, channels) are the same but for rounding. Waits for the device."""
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    one, other = one.float(), other.to(one.device).float()
    return bool(((one - other).abs().sum(-1) <= ROUNDING * one.abs().sum(-1)).all())


def unlike_prompt(negative: Negative, prompts: Sequence[Sequence[Sequence[Any]]]) -> Negative:
    """The negative without the images whose prompt gave the same conditioning in every step.

    prompts: for each image, for each of its prompt's parts (AND), the host's schedule of (end_at_step, cond).
    Waits for the device, once for each pair of texts: for the beginning of a pass, and for a change of model.
    """
    known: dict[tuple[int, int], bool] = {}
    kept = []
    for schedule, parts in zip(negative.images, prompts, strict=True):
        same = schedule is not None and all(_same(schedule, part, known) for part in parts)
        kept.append(None if same else schedule)
    left_out = sum(before is not after for before, after in zip(negative.images, kept, strict=True))
    return replace(negative, images=tuple(kept), alike=left_out) if left_out else negative


def _same(schedule: Sequence[Scheduled], prompt: Sequence[Any], known: dict[tuple[int, int], bool]) -> bool:
    """Whether the two agree wherever the negative has a text."""
    ends = sorted({part.end_at_step for part in (*schedule, *prompt)})
    for step in ends:
        entry, cond = entry_at(schedule, step), prompt[entry_number(prompt, step)].cond
        if entry is None:
            continue
        key = (id(entry), id(cond))
        if key not in known:
            known[key] = _is_prompt(entry, cross_attention_context(cond))
        if not known[key]:
            return False
    return True


def _is_prompt(entry: Entry, prompt: Tensor) -> bool:
    """Of several negatives, whether each of them is."""
    return all(alike(entry.context[span], prompt) for span, _ in entry.spans)
