"""The guidance rule of a pass: its strengths, its counter, and whatever implementation is best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nag_core.method import guidance
from nag_core.method.fallback import Chain, chain, path
from nag_core.method.guidance import Method
from nag_core.method.merge import Part
from nag_core.method.sign_flip import flip


@dataclass(frozen=True, slots=True)
class Rule:
    """The guidance rule of one pass, as the attention applies it.

    phi, tau, alpha: eq. 7-10. counter: 0-dim int64 on the tensors' device; gains the tokens that tau shrank,
        so that counting needs no launch and no wait. may_fuse: off for comparisons. offset: VSF's.
    """

    phi: float
    tau: float
    alpha: float
    method: Method
    counter: Tensor
    may_fuse: bool = True
    offset: float = 0.0

    @property
    def needs_lse(self) -> bool:
        """Whether `combined` reads the parts' log-sum-exps; they are worked out only then."""
        return self.method.needs_lse

    @property
    def strength(self) -> tuple[float, float, float]:
        """phi, tau and alpha; of VSF scale, offset and what it does not read."""
        return self.phi, self.offset if self.method is Method.VSF else self.tau, self.alpha

    @property
    def path(self) -> str:
        """What computes the rule after something better failed, for the report; empty where nothing has."""
        return path(self.counter.device)

    def fused(self, like: Tensor) -> Chain | None:
        """What merges and guides in one call for tensors like `like`; None where that is done apart."""
        return chain(like, self.may_fuse, self.method)

    def merge_and_guide(self, best: Chain, *parts: Any) -> None:
        """`lean.merge_and_guide` by `best`, the answer of `fused`. parts: what that takes up to the spans."""
        best.merge_and_guide(*parts, self.strength, self.method, self.counter)

    def guide(self, pos: Tensor, neg: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`pos` guided away from `neg`, both (B, N, C) attention outputs; in `dtype`, else that of `pos`."""
        best = self.fused(pos) if dtype in (None, pos.dtype) and not self.inert else None
        if best is not None:
            return best.guide(pos, neg, self.strength, self.method, self.counter)
        guided = guidance.guide(pos, neg, *self.strength, self.method, dtype)
        self.counter.add_(guided.clipped)
        return guided.out

    def combined(self, pos: Part, neg: Part, dtype: torch.dtype | None = None) -> Tensor:
        """The same of two attention parts, `out` (B, N, C) and, with `needs_lse`, `lse` (B, H, N).

        A rule that asks for log-sum-exps gets parts over disjoint keys: in joint attention z+ over prompt and
        image, z- over the negative's tokens alone. One that asks for none gets z- over negative and image.
        """
        if self.method is Method.VSF:
            return self._flipped(pos, neg, dtype)
        return self.guide(pos.out, neg.out, dtype)

    def _flipped(self, pos: Part, neg: Part, dtype: torch.dtype | None) -> Tensor:
        if self.inert:
            return pos.out.to(dtype or pos.out.dtype)
        best = self.fused(pos.out) if dtype in (None, pos.out.dtype) else None
        if best is not None:
            return best.flip(pos, neg, self.strength)
        return flip(pos, neg, self.phi, self.offset, dtype)

    def write(self, out: Tensor, pos: Part, neg: Part) -> None:
        """The same over `out`, which may be `pos.out` itself."""
        if pos.out is out and not self.needs_lse:
            self.guide_in_place(out, neg.out)
        else:
            out.copy_(self.combined(pos, neg, out.dtype))

    def guide_in_place(self, pos: Tensor, neg: Tensor) -> None:
        """The same, written over `pos`: with a fused kernel one launch, and no tensor more."""
        best = self.fused(pos)
        if best is None or not pos.is_contiguous():
            pos.copy_(self.guide(pos, neg))
        elif not self.inert:
            best.guide(pos, neg, self.strength, self.method, self.counter, out=pos)

    @property
    def inert(self) -> bool:
        return self.method.inert(self.phi, self.alpha)
