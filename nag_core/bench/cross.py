"""Cross-attention models in the bench: every variant through one processor, which calls attn2 as the hosts'
blocks do.

So the variants differ in the attention alone, and "ours" is the code that runs in a WebUI.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.networks.parts import Attention, split_heads
from nag_core.bench.published import published_nag
from nag_core.hosts.patcher.reuse import KeyValueReuse
from nag_core.hosts.patcher.unet import Step, patch_attn2
from nag_core.method.fallback import fused_kernels
from nag_core.method.guidance import Method
from nag_core.method.negative import Entry, Negative
from nag_core.method.rows import Batch
from nag_core.passes.plan import Plan, Progress
from nag_core.passes.session import Session
from nag_core.settings.presets import Strength

F = nn.functional


class Projections(nn.Module):
    """`to_k` and `to_v` of an attention as the hosts have them; Wan's key norm belongs to the projection."""

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.to_k = attn.to_k if attn.norm_k is None else nn.Sequential(attn.to_k, attn.norm_k)
        self.to_v = attn.to_v


class Processor:
    """The attention of one attn2; the case's `mode` says of which variant."""

    def __init__(self, case: CrossCase, key: tuple[str, int, int]) -> None:
        self.case, self.key = case, key

    def __call__(self, attn: Attention, x: Tensor, context: Tensor, rotation: None) -> Tensor:
        project = self.case.layers[self.key]
        self.case.seen = context
        q = attn.to_q(x)
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        # Official-style: one query, two texts, which the step embeds and every layer projects.
        k, v = project.to_k(context), project.to_v(context)
        extra = {"n_heads": attn.heads, "cond_or_uncond": [0]}
        if self.case.mode == "official":
            pos, neg = (sdpa(q, k[i : i + 1], v[i : i + 1], extra) for i in range(2))
            out = published_nag(pos, neg, *self.case.strength)
        elif self.case.mode == "ours":
            out = self.case.replace[self.key](q, k, v, extra)
        else:
            out = sdpa(q, k, v, extra)
        return attn.to_out(out)


def sdpa(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
    """torch's attention, heads merged on both sides: what stands for the host's."""
    q, k, v = (split_heads(x, extra["n_heads"]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Hosted(nn.Module):
    """The network as a host calls it: the context by keyword."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *, context: Tensor, rows: int) -> Any:
        return self.call(self.network, context, rows)


class CrossCase:
    """One cross-attention model and its variants; `call(network, context, rows)` runs a step of it."""

    def __init__(
        self, network: nn.Module, call: Callable[..., Any], context: Tensor, strength: Strength
    ) -> None:
        self.network, self.mode = Hosted(network, call), "baseline"
        self.strength = (strength.phi, strength.tau, strength.alpha)
        self.context, self.layers, self.replace = context, {}, {}
        named = [(name, module) for name, module in network.named_modules() if name.endswith("attn2")]
        for number, (_, module) in enumerate(named):
            key = ("layer", number, 0)
            self.layers[key] = Projections(module)
            module.processor = Processor(self, key)
        self.negative = torch.randn_like(context)
        self.seen: Tensor | None = None
        self.both = torch.cat([context, self.negative])
        # As attn2 gets it: PixArt, SANA and Wan project their text before the first block.
        self.embedded = self._embedded(self.negative)[0]

    def _embedded(self, text: Tensor) -> Tensor:
        with torch.inference_mode():
            self.network(context=text, rows=1)
        return self.seen

    def _session(self, may_fuse: bool) -> tuple[Session, dict]:
        """As a job makes it, with its negative; and the replaced attn2 of every layer."""
        plan = Plan(
            strength=Strength(*self.strength), method=Method.NAG, progress=lambda: Progress(0, 1),
            attention=sdpa, may_fuse=may_fuse,
        )  # fmt: skip
        session = Session(plan, Negative(()))
        batch = Batch((Entry(self.embedded),))
        options = patch_attn2({}, self.layers, Step(session, batch, "weights"))
        return session, options["transformer_options"]["patches_replace"]["attn2"]

    def _run(self, mode: str, context: Tensor, rows: int = 1) -> Callable[[], Any]:
        def step() -> Any:
            self.mode = mode
            return self.network(context=context, rows=rows)

        return step

    def _guided(self, reuse: bool = True, may_fuse: bool = True, first: bool = False) -> Callable[[], Any]:
        """A step of a pass of its own; of a new pass each time with `first`."""
        session, replace = self._session(may_fuse)
        plain, kept = self._run("ours", self.context), KeyValueReuse()
        kept.prepare(self.layers)

        def step() -> Any:
            nonlocal session, replace
            if first:
                session, replace = self._session(may_fuse)
                kept.prepare(self.layers)
            self.replace = replace
            with kept.during(self.network, "prompt", self.context.shape) if reuse else nullcontext():
                out = plain()
            if session.problems:
                raise RuntimeError(f"NAG stood aside: {'; '.join(session.problems)}")
            return out

        return step

    def steps(self) -> dict[str, Callable[[], Any]]:
        """The step of every variant."""
        steps = {
            "baseline": self._run("baseline", self.context),
            "baseline again": self._run("baseline", self.context),
            "cfg": self._run("baseline", self.both, 2),
            "official": self._run("official", self.both),
            "ours": self._guided(),
            # The one that projects both texts for all the others.
            "first": self._guided(first=True),
            "ours-no K+V+ reuse": self._guided(reuse=False),
        }
        if fused_kernels(self.context) is not None:
            steps["ours-no fused kernels"] = self._guided(may_fuse=False)
        return steps
