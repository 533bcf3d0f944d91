"""Joint-attention models in the bench (Flux, Chroma, SD3.5): every variant through one processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.bench.networks.parts import Attention, Rotation, rotated, split_heads
from nag_core.bench.published import published_nag
from nag_core.method.fallback import fused_kernels
from nag_core.method.guidance import Method
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse_kernels import FLASH_CPU, lse_kernel
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.settings.presets import Strength

F = nn.functional


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, H, N, D) to (B, N, H*D), torch's attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Processor:
    """The attention of one block: its own linears, norms and rotation around the case's."""

    def __init__(self, case: JointCase) -> None:
        self.case = case

    def __call__(self, attn: Attention, x: Tensor, context: Tensor | None, rotation: Rotation | None) -> Any:
        q, k, v = (split_heads(linear(x), attn.heads) for linear in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if context is not None:
            linears = (attn.add_q, attn.add_k, attn.add_v)
            eq, ek, ev = (split_heads(linear(context), attn.heads) for linear in linears)
            text = (attn.norm_added_q(eq), attn.norm_added_k(ek), ev)
            q, k, v = (self.case.join(one, other) for one, other in zip((q, k, v), text, strict=True))
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        out = self.case.attention(q, k, v)
        if context is None:
            return out
        image, text = self.case.split(out, context.shape[1], x.shape[0])
        return attn.to_out(image), None if attn.pre_only else attn.to_add_out(text)


class JointCase:
    """One joint-attention model and its variants. `call(network, context, rows)` runs it for `rows` pictures.

    `double` are the blocks with two streams, `single` those with one (official-style NAG carries the image
    twice there); image_first: the order of the sequence.
    """

    def __init__(
        self,
        network: nn.Module,
        call: Callable[..., Any],
        context: Tensor,
        image: int,
        strength: Strength,
        image_first: bool = False,
    ) -> None:
        self.network, self.call, self.context = network, call, context
        self.image, self.image_first = image, image_first
        self.strength = (strength.phi, strength.tau, strength.alpha)
        self.negative = torch.randn_like(context)
        self.mode, self.lse = "baseline", True
        self.last_double = None
        for name, module in network.named_modules():
            if name.endswith(".attn"):
                module.processor = Processor(self)
        if hasattr(network, "singles"):
            self.last_double = network.doubles[-1]
        tokens = context.shape[1]
        self.layout = Layout(tokens, tokens, image, image_first)
        self.rows = Arrangement([Group(slice(0, 1), (Entry(self.negative[0]),))], None)
        counter = torch.zeros((), dtype=torch.int64, device=context.device)
        self.rule = Rule(*self.strength, Method.NAG, counter)

    def join(self, image: Tensor, text: Tensor) -> Tensor:
        """One sequence of both; official-style has one image row for its two text rows."""
        image = image.expand(text.shape[0], -1, -1, -1)
        return torch.cat((image, text) if self.image_first else (text, image), dim=2)

    def split(self, out: Tensor, text: int, rows: int) -> tuple[Tensor, Tensor]:
        image = out[:rows, : self.image] if self.image_first else out[:rows, text:]
        return image, out[:, self.image :] if self.image_first else out[:, :text]

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[2] == self.image or self.mode == "baseline":
            return plain(q, k, v)
        if self.mode == "official":
            out = plain(q, k, v)
            image = slice(0, self.image) if self.image_first else slice(-self.image, None)
            guided = published_nag(out[:1, image], out[1:, image], *self.strength)
            out[:, image] = guided
            return out
        # Nothing can be probed on the meta device, which has the shapes of every kernel.
        kernel = (FLASH_CPU if q.is_meta else lse_kernel(q)) if self.lse else None
        return joint_attention(q, k, v, self.layout, self.rows, plain, kernel, self.rule)

    def steps(self) -> dict[str, Callable[[], Any]]:
        """The step of every variant."""
        texts = (self.context, self.negative) if self.image_first else (self.negative, self.context)
        widened = torch.cat(texts, dim=1)
        both = torch.cat([self.context, self.negative])

        def run(
            mode: str, context: Tensor, rows: int = 1, lse: bool = True, may_fuse: bool = True
        ) -> Callable[[], Any]:
            def step() -> Any:
                self.mode, self.lse, self.rule = mode, lse, replace(self.rule, may_fuse=may_fuse)
                return self.call(self.network, context, rows)

            return step

        steps = {
            "baseline": run("baseline", self.context),
            "baseline again": run("baseline", self.context),
            "cfg": run("baseline", both, 2),
            "official": self._official(run("official", both)),
            "ours": run("ours", widened),
            "ours-no LSE merge": run("ours", widened, lse=False),
        }
        if fused_kernels(self.context) is not None:
            steps["ours-no fused kernels"] = run("ours", widened, may_fuse=False)
        return steps

    def _official(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """With the image stream doubled from the first single block on."""
        if self.last_double is None:
            return step

        def doubled() -> Any:
            hook = self.last_double.register_forward_hook(
                lambda _module, _args, out: (out[0], out[1].expand(2, -1, -1).contiguous())
            )
            try:
                return step()
            finally:
                hook.remove()

        return doubled
