"""Euler sampling of the tiny model's rectified flow, and how well its pictures obey by the decoder."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from .decoder import decode
from .text import TextEncoder
from .unet import UNet
from .world import SHAPES, SIZE

# One prompt for every shape, alone and with attributes, as the measured mix of `obedience`.
PROMPTS = ("a circle", "a square", "a triangle", "a cross", "a red square on tan", "a blue circle framed",
           "a green triangle", "a white cross on black")  # fmt: skip


@torch.no_grad()
def euler(
    unet: UNet,
    context: Tensor,
    noise: Tensor,
    steps: int,
    cfg: float = 1.0,
    uncond: Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
) -> Tensor:
    """Pictures (B, 3, H, W) from noise of that shape under context (B, T, C), in `steps` even Euler steps.

    cfg = 1 evaluates the conditional rows alone; another cfg needs `uncond` (B, T, C).
    """
    x, times = noise, torch.linspace(1, 0, steps + 1).tolist()
    for now, after in itertools.pairwise(times):
        t = torch.full((len(x),), now, device=x.device)
        velocity = unet(x, t, context, transformer_options)
        if cfg != 1 and uncond is not None:
            velocity = torch.lerp(unet(x, t, uncond), velocity, cfg)
        x = x + (after - now) * velocity
    return x


def seeded_noise(n: int, seed: int) -> Tensor:
    """Noise (n, 3, 32, 32) that depends on n and the seed only."""
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def obedience(unet: UNet, text: TextEncoder, steps: int, n: int = 512, cfg: float = 1.0) -> dict[str, float]:
    """Shares of n seeded pictures over PROMPTS that are valid, obey the prompt, and show the named shape."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(n)]
    uncond = text([""] * n) if cfg != 1 else None
    decoded = decode(euler(unet, text(prompts), seeded_noise(n, 1), steps, cfg, uncond))
    found = decoded.attributes
    nouns = [next(word for word in prompt.split() if word in SHAPES) for prompt in prompts]
    shares = {
        "valid": decoded.valid,
        "obeyed": found.honour_each(prompts),
        "shape": found.honour_each(nouns),
    }
    return {name: round(share.float().mean().item(), 3) for name, share in shares.items()}
