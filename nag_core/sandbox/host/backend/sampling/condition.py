"""Conditionings as entries of a model call, and how entries of several rows are joined."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MOST_REPEATS = 4


class Condition:
    """Rows that can be stacked only when they have one shape."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def can_concat(self, other: Condition) -> bool:
        """Whether both fit into one call."""
        return self.cond.shape == other.cond.shape

    def process_cond(self, batch_size: int, device: Any, **kwargs: Any) -> Condition:
        """The condition with `batch_size` rows."""
        repeats = math.ceil(batch_size / self.cond.shape[0])
        rows = self.cond.repeat([repeats] + [1] * (self.cond.ndim - 1))[:batch_size]
        return type(self)(rows.to(device))

    def concat(self, others: list[Condition]) -> Tensor:
        """All rows in one tensor."""
        return torch.cat([self.cond, *(other.cond for other in others)])


class ConditionCrossAttn(Condition):
    """Text rows: lengths are made equal by whole repeats, which softmax attention does not notice."""

    def can_concat(self, other: Condition) -> bool:
        """Whether the common length is at most four times the shorter one."""
        mine, its = self.cond.shape, other.cond.shape
        if mine[0] != its[0] or mine[2] != its[2]:
            return False
        return math.lcm(mine[1], its[1]) // min(mine[1], its[1]) <= MOST_REPEATS

    def concat(self, others: list[Condition]) -> Tensor:
        """All rows, repeated to the common length."""
        texts = [self.cond, *(other.cond for other in others)]
        length = math.lcm(*(text.shape[1] for text in texts))
        return torch.cat([text.repeat(1, length // text.shape[1], 1) for text in texts])


def compile_conditions(cond: Any) -> list[dict[str, Any]] | None:
    """One entry for the whole batch, from text rows or from a dict of them and a pooled vector."""
    if cond is None:
        return None
    if isinstance(cond, torch.Tensor):
        return [{"cross_attn": cond, "model_conds": {"c_crossattn": ConditionCrossAttn(cond)}}]
    text, vector = cond["crossattn"], cond["vector"]
    conds = {"c_crossattn": ConditionCrossAttn(text), "y": Condition(vector)}
    return [{"cross_attn": text, "pooled_output": vector, "model_conds": conds}]


def compile_weighted_conditions(cond: Any, weights: list[list[tuple[int, float]]]) -> list[dict[str, Any]]:
    """One entry for each AND part; the weight is the last picture's, as on the host."""
    entries = []
    for parts in zip(*weights, strict=False):
        rows = [row for row, _ in parts]
        chosen = cond[rows] if isinstance(cond, torch.Tensor) else {key: cond[key][rows] for key in cond}
        entries.append({**compile_conditions(chosen)[0], "strength": parts[-1][1]})
    return entries
