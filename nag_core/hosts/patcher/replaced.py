"""NAG on attention layers whose forward NegPiP replaced, for one model call. An attn2 replace on such a layer
would switch that forward off.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.ldm_unet import LayerKey
from nag_core.hosts.patcher.provenance import marks_of
from nag_core.hosts.patcher.step import Step
from nag_core.hosts.patcher.wrapper import ApplyModel, wrapped
from nag_core.hosts.replaced import Replaced
from nag_core.method.rows import Arrangement


def patch_replaced(model_options: dict, layers: dict[LayerKey, nn.Module], step: Step) -> dict:
    """A copy of `model_options` whose model calls guide these layers; the original is not touched."""

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        marks = marks_of(c.get("transformer_options"))

        def rows(total: int, part: slice, device: torch.device) -> Arrangement | None:
            return step.batch.part(total, marks, part, device) if marks else None

        with ExitStack() as stack:
            for key, module in layers.items():
                layer = Replaced(
                    key, module, step.session, step.weights, rows, lambda: step.size, step.batch.tiled
                )
                layer.enter(stack)
            return apply(x, timestep, **c)

    return wrapped(model_options, run)
