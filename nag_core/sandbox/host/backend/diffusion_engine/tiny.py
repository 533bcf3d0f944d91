"""The tiny model behind the interface scripts expect of `p.sd_model`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backend.diffusion_engine.base import ForgeObjects
from backend.patcher.unet import UnetPatcher
from backend.text_engine import TextEngine

LATENT_CHANNELS, SCALE = 3, 8
NAME = "tiny-shapes"


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
        self.name = self.title = self.short_title = self.name_for_extra = self.model_name = name
        self.filename, self.hash, self.sha256, self.shorthash = f"{name}.safetensors", None, None, None


class TinyDiffusion:
    """Declares itself as SD1, whose cross-attention layout it has."""

    is_sd1 = True
    is_sd2 = is_sdxl = is_sd3 = is_flux = is_inpaint = is_webui_legacy_model_flag = False
    is_sdxl_inpaint = False
    use_distilled_cfg_scale = False
    use_shift = False

    def __init__(self, unet: torch.nn.Module, encoder: torch.nn.Module) -> None:
        self.text_processing_engine = TextEngine(encoder)
        clip = SimpleNamespace(cond_stage_model=encoder)
        objects = ForgeObjects(UnetPatcher.from_model(unet, torch.device("cpu")), clip, NearestVAE())
        self.forge_objects = objects
        self.forge_objects_original = objects.shallow_copy()
        self.forge_objects_after_applying_lora = objects.shallow_copy()
        self.sd_checkpoint_info = CheckpointInfo(NAME)
        self.sd_model_hash = None
        self.filename = self.sd_checkpoint_info.filename
        self.model_config = SimpleNamespace(ztsnr=False)
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: list[str] = []
        self.cond_stage_model = encoder
        self.clip_skip = 1

    def set_clip_skip(self, clip_skip: int) -> None:
        """Stored; the tiny text encoder has no layers worth skipping."""
        self.clip_skip = clip_skip

    @torch.inference_mode()
    def get_learned_conditioning(self, prompt: list[str]) -> Tensor:
        """(texts, 77k, C)."""
        return self.text_processing_engine(prompt)

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
