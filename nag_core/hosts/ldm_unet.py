"""The UNet of SD 1.x to SDXL as the hosts have it from CompVis' LDM, and its attention to text."""

from __future__ import annotations

from torch import Tensor, nn

from nag_core.hosts.compiled import original

LayerKey = tuple[str, int, int]  # block kind, block number, transformer block: the hosts' patch key


def cross_attention_layers(diffusion_model: nn.Module) -> dict[LayerKey, nn.Module]:
    """The attn2 modules of an LDM UNet by the hosts' patch key; empty for other networks.

    Enumerated, not hard-coded: SD1.5 has 16, SDXL 70, pruned SDXL variants fewer.
    """
    layers: dict[LayerKey, nn.Module] = {}
    for name in ("input", "middle", "output"):
        blocks = getattr(diffusion_model, f"{name}_block" if name == "middle" else f"{name}_blocks", None)
        if blocks is None:
            return {}
        for number, block in enumerate([blocks] if name == "middle" else blocks):
            for transformer in (m for m in block if hasattr(m, "transformer_blocks")):
                for index, inner in enumerate(transformer.transformer_blocks):
                    if getattr(inner, "attn2", None) is not None:
                        layers[(name, number, index)] = original(inner.attn2)
    return layers


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) as (B, H, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def projected(module: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """K and V of (1, tokens, channels) as an LDM attention makes them."""
    return module.to_k(context), module.to_v(context)
