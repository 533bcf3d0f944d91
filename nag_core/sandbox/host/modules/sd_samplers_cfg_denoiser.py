"""One call of the guided model: conditioning of this step, callbacks, guidance, inpainting blend."""

from __future__ import annotations

from typing import Any

import torch
from backend.sampling.sampling_function import sampling_function
from torch import Tensor

from modules import prompt_parser, shared
from modules.script_callbacks import CFGDenoiserParams, cfg_denoiser_callback
from modules.sd_samplers_common import InterruptedException, store_latent
from modules.shared import state


class CFGDenoiser(torch.nn.Module):
    """`step` counts model calls of the pass; `total_steps` are expected, a sampler may make fewer."""

    def __init__(self, sampler: Any) -> None:
        super().__init__()
        self.sampler = sampler
        self.model_wrap: Any = None
        self.mask: Tensor | None = None
        self.nmask: Tensor | None = None
        self.init_latent: Tensor | None = None
        self.noise: Tensor | None = None
        self.steps: int | None = None
        self.total_steps: int | None = None
        self.step = 0
        self.p: Any = None

    @property
    def inner_model(self) -> Any:
        """The wrap whose `.inner_model` is the loaded model."""
        return self.sampler.model_wrap

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        uncond: Any,
        cond: Any,
        cond_scale: float,
        s_min_uncond: float,
        image_cond: Any,
    ) -> Tensor:
        """The denoised latent; raises InterruptedException when the user asked to stop."""
        if state.interrupted or state.skipped:
            raise InterruptedException
        composition, cond = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = None if uncond is None else prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if self.mask is not None:
            predictor = self.inner_model.inner_model.forge_objects.unet.model.predictor
            kept = predictor.noise_scaling(sigma[:, None, None, None], self.noise, self.init_latent)
            x = x * self.nmask + kept * self.mask
        params = CFGDenoiserParams(
            x, image_cond, sigma, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        cfg_denoiser_callback(params)
        cond_scale = self._scale(self.p.hr_cfg if self.p.is_hr_pass else cond_scale, s_min_uncond, sigma)
        denoised, _, _ = sampling_function(self, params, cond_scale, composition)
        if self.mask is not None:
            denoised = denoised * self.nmask + self.init_latent * self.mask
        self.sampler.last_latent = denoised
        store_latent(denoised)
        self.step += 1
        return denoised

    def _scale(self, cond_scale: float, s_min_uncond: float, sigma: Tensor) -> float:
        """CFG at this call: two settings switch it off early in the pass, or at every other late step."""
        early = shared.opts.skip_early_cond
        if early > 0 and self.step / self.total_steps <= early:
            self.p.extra_generation_params["Skip Early CFG"] = early
            return 1.0
        if s_min_uncond > 0 and self.step % 2 and sigma[0] < s_min_uncond:
            self.p.extra_generation_params["NGMS"] = s_min_uncond
            return 1.0
        return cond_scale
