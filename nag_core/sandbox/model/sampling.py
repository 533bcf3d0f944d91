"""Euler sampling of a miniature's rectified flow, and how well its pictures obey by the decoder."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .decoder import decode
from .miniature import Conditions, Miniature
from .world import SHAPES, SIZE, sample, words_in


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
def obedience(
    model: Miniature, steps: int, n: int = 512, *, tokens: bool = True, vector: bool = True
) -> dict[str, float]:
    """Of n pictures from seeded noise, each of a random caption of the world: the shares that are valid, obey
    all of the caption, and, where it names a shape, show it. Without its `tokens` or its pooled `vector` the
    caption's are replaced by those of the empty text.
    """
    prompts = sample(n, torch.Generator().manual_seed(1))[1]
    given = model.conditions(*(prompts if used else [""] * n for used in (tokens, vector)))
    decoded = decode(euler(model, given, seeded_noise(n, 1), steps))
    found = decoded.attributes
    nouns = [next((word for word in words_in(prompt) if word in SHAPES), None) for prompt in prompts]
    named = torch.tensor([noun is not None for noun in nouns])
    shares = {
        "valid": decoded.valid,
        "obeyed": found.honour_each(prompts),
        "shape": found.honour_each([noun or "" for noun in nouns])[named],
    }
    return {name: round(share.float().mean().item(), 3) for name, share in shares.items()}
