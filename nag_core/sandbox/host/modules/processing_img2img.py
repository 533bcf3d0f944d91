"""Picture to picture, whole or under a mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from modules import rng, sd_samplers
from modules.processing_base import StableDiffusionProcessing, opt_f
from modules.sd_samplers_common import images_tensor_to_samples
from modules.shared import opts

FILL_MEAN, LATENT_NOISE, LATENT_NOTHING = 0, 2, 3  # 1 keeps the original


def create_binary_mask(image: Image.Image, round: bool = True) -> Image.Image:
    """The picture in gray, or its alpha channel where that is not opaque, in black and white if `round`."""
    if image.mode != "RGBA" or image.getextrema()[-1] == (255, 255):
        return image.convert("L")
    alpha = image.getchannel("A")
    return alpha.point(lambda value: 255 if value > 128 else 0) if round else alpha


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """img2img; with `mask` only the white part changes. Inpainting always works on the whole picture here."""

    init_images: list[Any] | None = None
    denoising_strength: float = 0.75
    mask: Any = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = None
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    hr_distilled_cfg: float = 3.5

    image_mask: Any = field(default=None, init=False)
    nmask: Tensor | None = field(default=None, init=False)
    mask_for_overlay: Any = field(default=None, init=False)
    init_latent: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None
        if self.mask_blur is not None:
            self.mask_blur_x = self.mask_blur_y = self.mask_blur
        if self.initial_noise_multiplier is None:
            self.initial_noise_multiplier = opts.initial_noise_multiplier

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Encode the pictures and the mask."""
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        mask = self._prepared_mask()
        pictures = [
            image.convert("RGB").resize((self.width, self.height), Image.LANCZOS)
            for image in self.init_images
        ]
        if len(pictures) > self.batch_size:
            raise RuntimeError(
                f"bad number of images passed: {len(pictures)}; expecting {self.batch_size} or less"
            )
        if len(pictures) == 1:
            pictures *= self.batch_size
        self.batch_size = len(pictures)
        if mask is not None:
            self.overlay_images = pictures
        rows = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in pictures]
        self.init_latent = images_tensor_to_samples(torch.stack(rows), model=self.sd_model)
        if mask is not None:
            self._apply_mask(mask, all_seeds)

    def _prepared_mask(self) -> Image.Image | None:
        if self.image_mask is None:
            return None
        mask = create_binary_mask(self.image_mask).point(lambda value: 255 if value > 127 else 0)
        if self.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
            self.extra_generation_params["Mask mode"] = "Inpaint not masked"
        if self.mask_blur_x or self.mask_blur_y:
            mask = mask.filter(ImageFilter.GaussianBlur(max(self.mask_blur_x, self.mask_blur_y)))
            self.extra_generation_params["Mask blur"] = max(self.mask_blur_x, self.mask_blur_y)
        if self.inpaint_full_res:
            self.comment("The sandbox inpaints on the whole picture; 'Only masked' was ignored.")
        mask = mask.resize((self.width, self.height))
        self.mask_for_overlay = mask.point(lambda value: min(255, value * 2))
        return mask

    def _apply_mask(self, mask: Image.Image, all_seeds: list[int]) -> None:
        small = mask.resize((self.width // opt_f, self.height // opt_f), Image.BOX)
        changed = torch.from_numpy(np.array(small, dtype=np.float32) / 255).round()
        self.nmask = changed.expand(self.init_latent.shape[1], -1, -1).clone()
        self.mask = 1.0 - self.nmask
        kept = self.init_latent * self.mask
        if self.inpainting_fill == FILL_MEAN:
            self.extra_generation_params["Masked content"] = "fill"
            mean = kept.sum((2, 3), keepdim=True) / self.mask.sum((1, 2)).clamp_min(1)[None, :, None, None]
            self.init_latent = kept + mean * self.nmask
        elif self.inpainting_fill == LATENT_NOISE:
            self.extra_generation_params["Masked content"] = "latent noise"
            rows = [
                rng.randn(seed, self.init_latent.shape[1:]) for seed in all_seeds[: len(self.init_latent)]
            ]
            self.init_latent = kept + torch.stack(rows) * self.nmask
        elif self.inpainting_fill == LATENT_NOTHING:
            self.extra_generation_params["Masked content"] = "latent nothing"
            self.init_latent = kept

    def sample(self) -> Tensor:
        """Latents of one batch."""
        x = self.rng.next()
        if self.initial_noise_multiplier != 1.0:
            self.extra_generation_params["Noise multiplier"] = self.initial_noise_multiplier
            x = x * self.initial_noise_multiplier
        # The host makes the sampler once, in init; a fresh one a batch starts at step 0 in the same way.
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        self.reset_patches()
        self.announce_sampling(x=self.init_latent, noise=x, c=self.c, uc=self.uc)
        samples = self.sampler.sample_img2img(self, self.init_latent, x, self.c, self.uc)
        if self.mask is None:
            return samples
        return samples * self.nmask + self.init_latent * self.mask
