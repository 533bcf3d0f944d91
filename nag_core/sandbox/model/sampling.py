"""Euler sampling of a miniature's rectified flow, and how well its pictures obey by the decoder."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .decoder import decode
from .miniature import Conditions, Miniature
from .world import SHAPES, SIZE

# One prompt for every shape, alone and with attributes, as the measured mix of `obedience`.
PROMPTS = ("a circle", "a square", "a triangle", "a cross", "a red square on tan", "a blue circle framed",
           "a green triangle", "a white cross on black")  # fmt: skip


@torch.no_grad()
def euler(model: Miniature, conditions: Conditions, noise: Tensor, steps: int) -> Tensor:
    """Pictures (B, 3, H, W) from noise of that shape, in `steps` even Euler steps, without guidance."""
    x, times = noise, torch.linspace(1, 0, steps + 1).tolist()
    for now, after in itertools.pairwise(times):
        t = torch.full((len(x),), now, device=x.device)
        x = x + (after - now) * model(x, t, conditions)
    return x


def seeded_noise(n: int, seed: int) -> Tensor:
    """Noise (n, 3, 32, 32) that depends on n and the seed only."""
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def obedience(model: Miniature, steps: int, prompts: list[str] | None = None) -> dict[str, float]:
    """Shares of seeded pictures over PROMPTS (512) or given prompts that are valid, obey the prompt, and show
    the shape it names.
    """
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(512)] if prompts is None else prompts
    decoded = decode(euler(model, model.conditions(prompts), seeded_noise(len(prompts), 1), steps))
    found = decoded.attributes
    nouns = [next((word for word in prompt.split() if word in SHAPES), None) for prompt in prompts]
    named = torch.tensor([noun is not None for noun in nouns])
    shares = {
        "valid": decoded.valid,
        "obeyed": found.honour_each(prompts),
        "shape": found.honour_each([noun or "" for noun in nouns])[named],
    }
    return {name: round(share.float().mean().item(), 3) for name, share in shares.items()}
