"""NAG on attention layers whose forward another extension replaced: within NegPiP's, and within no other.

NegPiP's runs, once, as it is: hooks take the queries from `to_q`, and guide what `to_out` is about to
project. z- is made beside it, from the same queries and the negative's own keys and values; the forward is
not called for it, since it may count its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from nag_core.hosts.foreign import is_negpip, replaced_by
from nag_core.hosts.ldm_unet import LayerKey, projected, split_heads
from nag_core.method.cross import Layer
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement
from nag_core.passes.guiding import guide
from nag_core.passes.session import Session

# Who is guided of a part of a layer's rows, of so many; None for a layout nobody knows.
Rows = Callable[[int, slice, torch.device], Arrangement | None]


@dataclass(slots=True)
class Replaced:
    """One such layer, while its hooks are in place. size, tiled: as in `passes.guiding.guide`."""

    key: LayerKey
    module: nn.Module
    session: Session
    weights: Hashable
    rows: Rows
    size: Callable[[], tuple[int, int] | None]
    tiled: bool = False
    x: Tensor | None = None  # all rows, as the layer got them
    taken: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)  # a projection's last in, out
    known: bool = False  # whether what was projected could be told

    def enter(self, stack: ExitStack) -> None:
        """Hooks in place until `stack` closes."""
        module, needs_lse = self.module, self.session.plan.method.needs_lse
        stack.callback(module.register_forward_pre_hook(self._begin).remove)
        for projection in (module.to_q, module.to_k) if needs_lse else (module.to_q,):
            stack.callback(projection.register_forward_hook(self._take).remove)
        stack.callback(module.to_out[0].register_forward_pre_hook(self._guide).remove)
        stack.callback(module.register_forward_hook(self._end, always_call=True).remove)

    def _begin(self, _: nn.Module, arguments: tuple) -> None:
        self.x, self.known = (arguments[0] if arguments else None), False
        self.taken.clear()

    def _take(self, projection: nn.Module, arguments: tuple, made: Tensor) -> None:
        self.taken[projection] = (arguments[0], made)

    def _end(self, *_: object) -> None:
        if not self.known:
            self.session.problem(replaced_by(self.module.forward))
        self.x = None
        self.taken.clear()

    def _guide(self, _: nn.Module, arguments: tuple) -> tuple | None:
        """Runs for all rows, or for parts of them: NegPiP projects prompt and uncond one after the other."""
        try:
            return self._guided(arguments)
        except Exception as error:  # ours: it must cost the guidance, not the picture
            self.session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)
            return None

    def _guided(self, arguments: tuple) -> tuple | None:
        session, pos = self.session, arguments[0]
        given, q = self.taken.pop(self.module.to_q, (None, None))
        part = None if given is None or self.x is None else rows_within(given, self.x)
        if session.closed or part is None or pos.shape != q.shape:
            return None
        self.known = True
        rows = self.rows(self.x.shape[0], part, pos.device)
        if not rows:
            session.problem("a batch layout nobody knows; there the attention ran unguided")
        if not rows or not rows.groups:
            return None
        _, k = self.taken.pop(self.module.to_k, (None, None))
        layer = Layer(
            key=self.key, q=q, attend=self._attend(), project=partial(projected, self.module),
            weights=self.weights, k=k, heads=partial(split_heads, heads=self.module.heads),
        )  # fmt: skip
        out = guide(session, pos, layer, rows, self.size(), self.tiled, may_write=False)
        return (out, *arguments[1:])

    def _attend(self) -> Callable[[Tensor, Tensor, Tensor, Entry], Tensor]:
        options = {"n_heads": self.module.heads}
        if hasattr(self.module, "attn_precision"):  # reForge
            options["attn_precision"] = self.module.attn_precision
        return lambda q, k, v, _: self.session.plan.attention(q, k, v, options)


def left_alone(session: Session, forwards: Mapping[LayerKey, Callable | None]) -> set[LayerKey]:
    """The layers on which another extension's forward runs, other than NegPiP's; it is noted that they are
    unguided, and whether all are. forwards: of all that are to be guided, None where it is the class's own.
    """
    # A term of its own (IP-Adapter's) would stay in z+ - z-.
    others = {key: one for key, one in forwards.items() if one is not None and not is_negpip(one)}
    for one in others.values():
        session.problem(replaced_by(one))
    session.beside = 0 < len(others) == len(forwards)
    return set(others)


def rows_within(part: Tensor, whole: Tensor) -> slice | None:
    """Which consecutive rows of `whole` the view `part` is; None for every other tensor, copies included:
    nobody can tell their rows apart.
    """
    same = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    if not same or part.shape[1:] != whole.shape[1:] or part.stride()[1:] != whole.stride()[1:]:
        return None
    first, within = divmod(part.storage_offset() - whole.storage_offset(), max(whole.stride(0), 1))
    if within or first < 0 or first + part.shape[0] > whole.shape[0]:
        return None
    return slice(first, first + part.shape[0]) if part.stride(0) == whole.stride(0) else None
