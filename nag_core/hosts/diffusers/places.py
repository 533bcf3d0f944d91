"""Where the picture's own tokens stand among the image tokens of a model call, and where reference images do.

The model is told by what the pipeline hands it beside the tokens: read from there, never from the pipeline's
name.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from torch import nn

from nag_core.method.joint import NotGuided
from nag_core.passes.report import UNKNOWN_PLACES


class Place(NamedTuple):
    """Image tokens of reference images in front of the picture's and behind them."""

    before: int = 0
    behind: int = 0


def whole(_model: nn.Module, _given: dict[str, Any], _tokens: int) -> Place:
    """Of models that know no reference images."""
    return Place()


def by_ids(_model: nn.Module, given: dict[str, Any], tokens: int) -> Place:
    """Of Flux and Flux.2: `img_ids` (tokens, axes), which may have a batch in front, are 0 along the first
    axis where the picture is. Waits for the device.
    """
    if given.get("kv_cache_mode") is not None:
        raise NotGuided("keys of the reference images are kept over the steps, which NAG cannot take part in")
    ids = given["img_ids"]
    own = ((ids if ids.dim() == 2 else ids[0])[:, 0] == 0).tolist()
    before = own.index(True) if any(own) else 0
    count = sum(own)
    if len(own) != tokens or not count or not all(own[before : before + count]):
        raise NotGuided(UNKNOWN_PLACES)
    return Place(before, tokens - before - count)


def by_shapes(model: nn.Module, given: dict[str, Any], tokens: int) -> Place:
    """Of Qwen-Image: `img_shapes` lists (frames, height, width) of the picture, then of the references; of a
    model of layers, of all layers, then of the one reference.
    """
    shapes = given["img_shapes"][0]
    sizes = [prod(one) for one in (shapes if isinstance(shapes, list) else [shapes])]
    layers = len(sizes) - 1 if getattr(model.config, "use_layer3d_rope", False) else 1
    if sum(sizes) != tokens:
        raise NotGuided(UNKNOWN_PLACES)
    return Place(0, sum(sizes[layers:]))
