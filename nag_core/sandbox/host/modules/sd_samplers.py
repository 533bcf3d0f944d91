"""Samplers for rectified flow: sigma is time, from 1 (noise) to 0 (picture), in equal steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from modules import shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser
from modules.sd_samplers_common import InterruptedException, SamplerData
from modules.shared import state

Denoise = Callable[[Tensor, float], Tensor]
Report = Callable[[int], None]


def sample_euler(denoise: Denoise, x: Tensor, sigmas: list[float], report: Report) -> Tensor:
    """Straight along the predicted velocity."""
    for i, (now, after) in enumerate(pairwise(sigmas)):
        slope = (x - denoise(x, now)) / now
        report(i)
        x = x + slope * (after - now)
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: list[float], report: Report) -> Tensor:
    """Mean of the slopes at both ends of a step: two calls, one at the last step."""
    for i, (now, after) in enumerate(pairwise(sigmas)):
        slope = (x - denoise(x, now)) / now
        report(i)
        trial = x + slope * (after - now)
        if after > 0:
            slope = (slope + (trial - denoise(trial, after)) / after) / 2
        x = x + slope * (after - now)
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: list[float], report: Report) -> Tensor:
    """DPM-Solver++(2M) in half log-SNR log((1 - t) / t); the first and last steps are Euler's."""

    def snr(t: float) -> float:
        return -math.inf if t >= 1 else math.log((1 - t) / t)

    previous, last_h = None, math.inf
    for i, (now, after) in enumerate(pairwise(sigmas)):
        denoised = guess = denoise(x, now)
        report(i)
        h = math.inf if after == 0 else snr(after) - snr(now)
        if previous is not None and math.isfinite(h) and math.isfinite(last_h):
            guess = denoised + (denoised - previous) * (h / (2 * last_h))
        ratio = after / now
        x = x * ratio + guess * ((1 - after) - ratio * (1 - now))
        previous, last_h = denoised, h
    return x


class Sampler:
    """One pass: holds the denoiser that scripts reach as `p.sampler.model_wrap_cfg`."""

    def __init__(self, config: SamplerData, func: Any, sd_model: Any) -> None:
        self.config, self.func = config, func
        self.p: Any = None
        self.last_latent: Tensor | None = None
        self.sampler_extra_args: dict[str, Any] = {}
        self.model_wrap = SimpleNamespace(inner_model=sd_model)
        self.model_wrap_cfg = CFGDenoiser(self)

    def get_sigmas(self, p: Any, steps: int) -> Tensor:
        """The schedule of a job with so many steps, to its end at 0."""
        return torch.tensor(_schedule(steps))

    def sample(
        self,
        p: Any,
        x: Tensor,
        conditioning: Any,
        unconditional_conditioning: Any,
        steps: int | None = None,
        image_conditioning: Any = None,
    ) -> Tensor:
        """From noise to latent."""
        steps = steps or p.steps
        return self._launch(
            p, x, x, conditioning, unconditional_conditioning, _schedule(steps), steps, image_conditioning
        )

    def sample_img2img(
        self,
        p: Any,
        x: Tensor,
        noise: Tensor,
        conditioning: Any,
        unconditional_conditioning: Any,
        steps: int | None = None,
        image_conditioning: Any = None,
    ) -> Tensor:
        """From a latent with noise on it; denoising strength is the share of the schedule, one step more."""
        steps = steps or p.steps
        count = int(min(p.denoising_strength, 0.999) * steps)
        sigmas = _schedule(steps)[steps - count - 1 :]
        predictor = self.model_wrap.inner_model.forge_objects.unet.model.predictor
        start = predictor.noise_scaling(torch.tensor(sigmas[0]), noise, x, max_denoise=False)
        self.model_wrap_cfg.init_latent = x
        self.last_latent = x
        return self._launch(
            p, start, noise, conditioning, unconditional_conditioning, sigmas, count + 1, image_conditioning
        )

    def _launch(
        self,
        p: Any,
        x: Tensor,
        noise: Tensor,
        cond: Any,
        uncond: Any,
        sigmas: list[float],
        steps: int,
        image_cond: Any,
    ) -> Tensor:
        self.p = p
        denoiser = self.model_wrap_cfg
        denoiser.p, denoiser.step, denoiser.noise = p, 0, noise
        denoiser.mask, denoiser.nmask = getattr(p, "mask", None), getattr(p, "nmask", None)
        denoiser.steps, denoiser.total_steps = steps, self.config.total_steps(steps)
        self.sampler_extra_args = {
            "cond": cond,
            "uncond": uncond,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": p.s_min_uncond or 0.0,
            "image_cond": image_cond,
        }
        state.sampling_steps, state.sampling_step = steps, 0

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoiser(x, torch.full((x.shape[0],), sigma), **self.sampler_extra_args)

        if self.last_latent is None:
            self.last_latent = x
        try:
            return self.func(denoise, x, sigmas, self._report)
        except InterruptedException:
            return self.last_latent

    def _report(self, step: int) -> None:
        state.sampling_step = step
        shared.total_tqdm.update()


def _schedule(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)] + [0.0]


def _data(name: str, func: Any, aliases: list[str], options: dict[str, Any]) -> SamplerData:
    data = SamplerData(name, None, aliases, options)
    data.constructor = lambda model: Sampler(data, func, model)
    return data


all_samplers = [
    _data("Euler", sample_euler, ["k_euler"], {}),
    _data("DPM++ 2M", sample_dpmpp_2m, ["k_dpmpp_2m"], {}),
    _data("Heun", sample_heun, ["k_heun"], {"second_order": True}),
]
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}


def find_sampler_config(name: str | None) -> SamplerData:
    """The sampler of this name or alias; an unknown name means the first one, as on the host."""
    wanted = (name or "").lower()
    return next(
        (data for data in all_samplers if wanted in (data.name.lower(), *data.aliases)), all_samplers[0]
    )


def create_sampler(name: str | None, model: Any) -> Sampler:
    """A fresh sampler for one pass."""
    return find_sampler_config(name).constructor(model)


def visible_sampler_names() -> list[str]:
    """Names for a list on the page."""
    return [data.name for data in all_samplers]
