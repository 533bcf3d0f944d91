"""What a host's networks look like from outside: the only thing that guiding one needs to know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nag_core.method.layout import Layout
from nag_core.method.rows import Arrangement

TEXT_ONLY, UNTOUCHED = "text only", "untouched"
# Where a network puts the tokens of reference images. EITHER: behind the picture's those that are handed to
# its forward, in front of them those that it looks up itself.
BEHIND, EITHER = "behind", "either"


@dataclass(frozen=True, slots=True)
class JointModel:
    """One loaded network.

    blocks: (kind, module) in the order they run. patch: latent pixels per image token and side.
    namespace, attribute: the host module's globals, and the attention function that its blocks look up there.
    heads_split: that function takes (q, k, v, heads, skip_reshape=True) with q of shape (B, H, N, D), already
        rotated; else (q, k, v, heads, mask) with q of shape (B, N, H*D).
    is_sdpa: whether the function found there is torch's own attention, or as exact. Only then its work may go
        to a kernel that returns a log-sum-exp; any other backend is the user's choice and is kept.
    image_first: the sequence is [image, text]. pad: each text and the image are padded to a multiple of it
        (Z-Image).
    others: modules whose attention is no joint one. TEXT_ONLY: among the text's tokens, where the two texts
        must not see each other (refiners); UNTOUCHED: among anything else.
    adapt: what else has to be in place during a call (positions); may raise `NotGuided`.
    references: of a latent and its call's arguments, how many tokens of reference images stand in front of
        the picture's and how many behind them; may raise `NotGuided`.
    begins: the part of a block that runs once, before its attention, also where the network runs a block's
        parts without its forward; empty for the block itself.
    """

    blocks: tuple[tuple[str, nn.Module], ...]
    patch: int
    namespace: dict[str, Any]
    attribute: str
    heads_split: bool
    is_sdpa: Callable[[Any], bool]
    image_first: bool = False
    pad: int = 1
    others: tuple[tuple[str, nn.Module], ...] = ()
    adapt: Callable[[Layout, Arrangement], AbstractContextManager] | None = None
    references: Callable[[Tensor, Mapping[str, Any]], tuple[int, int]] | None = None
    begins: str = ""

    def named_blocks(self) -> list[tuple[tuple[str, int], nn.Module]]:
        """((kind, number within its kind), module) in the order they run."""
        seen: Counter[str] = Counter()
        named = []
        for kind, module in self.blocks:
            named.append(((kind, seen[kind]), module))
            seen[kind] += 1
        return named


@dataclass(frozen=True, slots=True)
class CrossModel:
    """One loaded network whose layers attend to the text apart.

    layers: its cross-attention modules in the order they run. text_call: which of the attention calls in
        such a module is the one over the text (Wan I2V has one over an image before it).
    embed: a text (1, tokens, channels) to the layers' context; project: that to a layer's keys and values, in
        the shape its attention takes them.
    namespace, attribute, heads_split: as in `JointModel`.
    picture: of a latent, how many tokens are the picture's, and how many there are with those of reference
        images behind them; None without any; may raise `NotGuided`.
    """

    layers: tuple[nn.Module, ...]
    text_call: Callable[[nn.Module], int]
    embed: Callable[[Tensor], Tensor]
    project: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
    namespace: dict[str, Any]
    attribute: str
    heads_split: bool
    picture: Callable[[Tensor], tuple[int, int] | None] | None = None


def image_tokens(latent: Tensor, patch: int) -> int:
    """Of a latent (B, C, ..., H, W), without what the model pads them with."""
    height, width = (-(-size // patch) for size in latent.shape[-2:])
    return height * width


@contextmanager
def replaced(namespace: dict[str, Any], attribute: str, value: Any) -> Iterator[None]:
    """`namespace[attribute]` is `value` inside, and what it was afterwards, whatever happens inside."""
    original = namespace[attribute]
    namespace[attribute] = value
    try:
        yield
    finally:
        namespace[attribute] = original
