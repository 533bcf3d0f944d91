"""Reference images on Forge Neo (edit models): which of a model call's tokens are theirs.

The host keeps their latents beside the conditioning, and the network's own forward puts their tokens beside
the picture's. They are keys as all the image's, and are not guided themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nag_core.hosts.patcher.families import Family
from nag_core.hosts.patcher.networks import EITHER, image_tokens
from nag_core.method.joint import NotGuided
from nag_core.passes.report import UNKNOWN_PLACES

# They differ in the references' positions, which stay the host's own, and not in where their tokens are.
METHODS = ("offset", "index", "uxo")


def argument(arguments: Any, name: str) -> Any:
    """Of Neo's `dynamic_args`: a dictionary until the spring of 2026, a class since."""
    return arguments.get(name) if isinstance(arguments, dict) else getattr(arguments, name, None)


def looked_up(network: nn.Module) -> Sequence[Tensor]:
    """The latents that the network's forward finds in `dynamic_args`, which its module must know for that:
    what lies there is nothing to a network that never looks (Chroma).
    """
    names = getattr(inspect.unwrap(type(network).forward), "__globals__", {})
    return argument(names.get("dynamic_args"), "ref_latents") or ()


def in_sequence(
    network: nn.Module, family: Family, patch: int, x: Tensor, given: Mapping[str, Any]
) -> tuple[int, int]:
    """How many tokens of references, of latents (B, C, H, W) or (B, C, 1, H, W), stand in front of the
    picture's of this joint call and behind them; `NotGuided` where nobody knows.
    """
    handed = given.get("ref_latents") or ()
    found = handed or looked_up(network)
    if not found:
        return 0, 0
    method = given.get("ref_latents_method") or getattr(network, "default_ref_method", METHODS[0])
    still = all(one.dim() == 4 or (one.dim() == 5 and one.shape[2] == 1) for one in found)
    if not family.references or not still or method not in METHODS:
        raise NotGuided(UNKNOWN_PLACES)
    if family.references == EITHER and not handed:  # each at the picture's size
        return len(found) * image_tokens(x, patch), 0
    return 0, sum(image_tokens(one, patch) for one in found)


def in_frames(network: nn.Module, x: Tensor) -> tuple[int, int] | None:
    """Of Anima, whose references are frames behind those of the latent (B, C, frames, H, W): how many tokens
    are the latent's, and how many all; None without references, `NotGuided` where they may stand elsewhere.
    """
    found = looked_up(network)
    if not found:
        return None
    alike = x.dim() == 5 and all(one.dim() == 5 and one.shape[-2:] == x.shape[-2:] for one in found)
    if not alike or network.patch_temporal != 1:
        raise NotGuided(UNKNOWN_PLACES)
    frame = image_tokens(x, network.patch_spatial)
    own = x.shape[2] * frame
    return own, own + sum(one.shape[2] for one in found) * frame
