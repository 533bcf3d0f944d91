"""The two trained models of the sandbox: a network with the text encoder it was trained with."""

from __future__ import annotations

from torch import Tensor, nn

from .mmdit import MMDiT
from .text import TextEncoder
from .unet import ResBlock, SpatialTransformer, UNet

# By architecture: latent-diffusion's UNet with cross-attention, and Flux's transformer with joint attention.
KINDS = ("unet", "mmdit")
# The transformer once more, fine-tuned so that its pooled vector alone can say what is to be drawn. No
# checkpoint of the sandbox: it is there to be compared with (nag_core/evaluate/toy/pooled.py).
POOLED = "mmdit-pooled"
Conditions = tuple[Tensor, ...]


class Miniature(nn.Module):
    """`network` and `text`; predicts the velocity of rectified flow, t = 1 being noise."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in (*KINDS, POOLED):
            raise ValueError(f"{kind!r} is no model of the sandbox: {', '.join((*KINDS, POOLED))}")
        self.kind = kind
        self.network = UNet() if kind == "unet" else MMDiT()
        self.text = TextEncoder() if kind == "unet" else TextEncoder(chunk_length=14)

    def conditions(self, texts: list[str], vectors: list[str] | None = None) -> Conditions:
        """What the network takes of texts of one chunk each: the context (B, T, C), and the MM-DiT the pooled
        vector (B, C), which is that of `vectors` where other texts are given there.
        """
        context = self.text(texts)
        if self.kind == "unet":
            return (context,)
        return context, pooled(context if vectors is None else self.text(vectors))

    def forward(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Velocity (B, 3, H, W) at x of that shape and times t (B,)."""
        return self.network(x, t, *conditions)

    def quiet_start(self) -> None:
        """Zero what ends a residual branch, so that training starts from the identity."""
        for module in self.network.modules():
            if isinstance(module, ResBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, SpatialTransformer):
                nn.init.zeros_(module.proj_out.weight)
            elif isinstance(getattr(module, "modulation", None), nn.Linear):
                nn.init.zeros_(module.modulation.weight)
                nn.init.zeros_(module.modulation.bias)
        last = self.network.out[-2] if self.kind == "unet" else self.network.final_layer.linear
        nn.init.zeros_(last.weight)


def pooled(context: Tensor) -> Tensor:
    """A text's pooled vector (B, C): its last token, which has seen all others (B, T, C)."""
    return context[:, -1]
