"""What a host's joint-attention model looks like from outside: the only thing a host adapter must know about
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class JointModel:
    """One loaded network.

    blocks: (kind, module) in the order they run. patch: latent pixels per image token and side.
    namespace, attribute: the host module's globals, and the attention function that its blocks look up there.
    heads_split: that function takes (q, k, v, heads, skip_reshape=True) with q of shape (B, H, N, D), already
        rotated; else (q, k, v, heads, mask) with q of shape (B, N, H*D).
    is_sdpa: whether the function found there is torch's own attention, or as exact. Only then its work may go
        to a kernel that returns a log-sum-exp; any other backend is the user's choice and is kept.
    """

    blocks: tuple[tuple[str, nn.Module], ...]
    patch: int
    namespace: dict[str, Any]
    attribute: str
    heads_split: bool
    is_sdpa: Callable[[Any], bool]

    def named_blocks(self) -> list[tuple[tuple[str, int], nn.Module]]:
        """((kind, number within its kind), module) in the order they run."""
        seen: Counter[str] = Counter()
        named = []
        for kind, module in self.blocks:
            named.append(((kind, seen[kind]), module))
            seen[kind] += 1
        return named


@contextmanager
def replaced(namespace: dict[str, Any], attribute: str, value: Any) -> Iterator[None]:
    """`namespace[attribute]` is `value` inside, and what it was afterwards, whatever happens inside."""
    original = namespace[attribute]
    namespace[attribute] = value
    try:
        yield
    finally:
        namespace[attribute] = original
