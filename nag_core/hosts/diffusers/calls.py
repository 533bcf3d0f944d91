"""What a hooked diffusers model, whoever knows its texts, and one call of it are to each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from nag_core.hosts.diffusers.families import Family
from nag_core.hosts.diffusers.processors import Attention
from nag_core.method.rows import Batch
from nag_core.passes.session import Session
from nag_core.settings.blocks import Block


class Hooked(Protocol):
    """A hooked model. layers, blocks: of each attention over text, its key in counts and caches, and the
    block it is in. among_texts: attention modules among the text's tokens alone.
    """

    model: nn.Module
    family: Family
    layers: dict[nn.Module, Hashable]
    blocks: dict[nn.Module, Block]
    among_texts: frozenset[nn.Module]


class Arrived(NamedTuple):
    """A model call that NAG acts on: the pass, its images, and a mark for each chunk of rows (0: prompt)."""

    session: Session
    batch: Batch
    marks: tuple[int, ...]


class Source(Protocol):
    """Whoever knows which text is whose."""

    def arrived(self, context: Tensor | Sequence[Tensor] | None) -> Arrived | None:
        """What to do with a model call over this text; None to leave it alone."""

    def failed(self, reason: str, error: BaseException | None = None) -> None:
        """NAG had to stand aside in a call; the pass goes on without it."""


class ModelCall(Protocol):
    """One model call under NAG, by mechanism (cross.py, joint.py)."""

    def arguments(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """The arguments to call the model with; None for those given."""

    def entering(self, layer: Hashable) -> None:
        """One of the network's layers begins."""

    def around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        """Runs a processor's code."""

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """In the attention's place; result in the call's own layout."""

    def finish(self) -> str:
        """Ends the call: empty, or why it must be made again without NAG."""
