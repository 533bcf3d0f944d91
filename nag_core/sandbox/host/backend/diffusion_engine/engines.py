"""The miniatures behind the interface scripts expect of `p.sd_model`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backend.diffusion_engine.base import ForgeObjects
from backend.patcher.unet import UnetPatcher
from backend.text_engine import TextEngine
from nag_core.sandbox.model.miniature import Miniature, pooled

LATENT_CHANNELS, SCALE = 3, 8


class NearestVAE:
    """Pictures are eight times the latent: nearest neighbour up, mean down; values are in [-1, 1]."""

    latent_channels = LATENT_CHANNELS

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, 8h, 8w)."""
        return torch.nn.functional.interpolate(latent.float(), scale_factor=SCALE, mode="nearest")

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H/8, W/8)."""
        return torch.nn.functional.avg_pool2d(picture.float(), SCALE)


class CheckpointInfo:
    """What the host knows of a checkpoint file."""

    def __init__(self, name: str) -> None:
        self.name = self.title = self.name_for_extra = name
        self.filename, self.sha256 = f"{name}.safetensors", None


class DiffusionEngine:
    """What the two engines share; a subclass says what the model declares itself as."""

    is_sd1 = is_sd2 = is_sdxl = is_sd3 = False

    def __init__(self, network: torch.nn.Module, encoder: torch.nn.Module, name: str) -> None:
        self.text_processing_engine = TextEngine(encoder)
        clip = SimpleNamespace(cond_stage_model=encoder)
        objects = ForgeObjects(UnetPatcher.from_model(network), clip, NearestVAE())
        self.forge_objects = objects
        self.forge_objects_original = objects.shallow_copy()
        self.forge_objects_after_applying_lora = objects.shallow_copy()
        self.sd_checkpoint_info = CheckpointInfo(name)
        self.sd_model_hash = None
        self.filename = self.sd_checkpoint_info.filename
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.clip_skip = 1

    def set_clip_skip(self, clip_skip: int) -> None:
        """Stored; the tiny text encoder has no layers worth skipping."""
        self.clip_skip = clip_skip

    def get_prompt_lengths_on_ui(self, prompt: str) -> tuple[int, int]:
        """Tokens in the prompt, and what its chunks could hold."""
        engine = self.text_processing_engine
        count = sum(map(len, engine.tokens(prompt)))
        return count, max(1, math.ceil(count / engine.chunk_length)) * engine.chunk_length

    def encode_first_stage(self, x: Tensor) -> Tensor:
        """Picture in [-1, 1] to latent."""
        return self.forge_objects.vae.encode(x)

    def decode_first_stage(self, x: Tensor) -> Tensor:
        """Latent to picture in [-1, 1]."""
        return self.forge_objects.vae.decode(x)

    def get_first_stage_encoding(self, x: Tensor) -> Tensor:
        """The encoder is deterministic: nothing to draw from."""
        return x


class StableDiffusion(DiffusionEngine):
    """The UNet; declares itself as SD1, whose cross-attention layout it has."""

    is_sd1 = True

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt: list[str]) -> Tensor:
        """(texts, 77k, C)."""
        return self.text_processing_engine(prompt)


class Flux(DiffusionEngine):
    """The MM-DiT; known by its class's name, as on the host, which has no flag for it."""

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt: list[str]) -> dict[str, Tensor]:
        """`crossattn` (texts, T, C) and the pooled `vector` (texts, C) of each text's first chunk."""
        context = self.text_processing_engine(prompt)
        first = context[:, : self.text_processing_engine.chunk_length + 2]
        return {"crossattn": context, "vector": pooled(first)}


def engine(model: Miniature, name: str) -> DiffusionEngine:
    """The trained model under the name of a checkpoint."""
    if model.kind == "unet":
        return StableDiffusion(model.network, model.text, name)
    from backend.nn.flux import IntegratedFluxTransformer2DModel

    network = IntegratedFluxTransformer2DModel().eval().requires_grad_(False)
    network.load_state_dict(model.network.state_dict())
    return Flux(network, model.text, name)
