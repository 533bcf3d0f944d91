"""Latents to pictures and back, and what samplers share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules import shared


class InterruptedException(BaseException):
    """The user asked to stop; raised inside the sampling loop and never seen outside it."""


@dataclass
class SamplerData:
    """A sampler by name; second-order samplers call the model twice a step."""

    name: str
    constructor: Any
    aliases: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def total_steps(self, steps: int) -> int:
        """Expected number of model calls."""
        return steps * 2 if self.options.get("second_order", False) else steps


def decode_first_stage(model: Any, x: Tensor) -> Tensor:
    """Latents to pictures in [-1, 1]."""
    return model.decode_first_stage(x)


def images_tensor_to_samples(image: Tensor, model: Any) -> Tensor:
    """Pictures in [0, 1] to latents."""
    return model.get_first_stage_encoding(model.encode_first_stage(image * 2 - 1))


def to_pil(picture: Tensor) -> Image.Image:
    """A (3, H, W) tensor in [0, 1] as a picture; values are cut, not rounded, as on the host."""
    return Image.fromarray((255.0 * np.moveaxis(picture.float().cpu().numpy(), 0, 2)).astype(np.uint8))


def sample_to_image(samples: Tensor) -> Image.Image:
    """A preview of the first latent of a batch."""
    picture = shared.sd_model.decode_first_stage(samples[:1])[0]
    return to_pil(((picture + 1) / 2).clamp(0, 1))


def store_latent(decoded: Tensor) -> None:
    """Keep the latest prediction for previews."""
    shared.state.current_latent = torch.clone(decoded)
