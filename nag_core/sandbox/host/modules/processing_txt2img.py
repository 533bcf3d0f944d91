"""Text to picture, with the optional second pass at a larger size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules import devices, extra_networks, prompt_parser, rng, sd_samplers, shared
from modules.processing_base import StableDiffusionProcessing, opt_f
from modules.sd_samplers_common import decode_first_stage
from modules.shared import opts, state


class DecodedSamples(list):
    """Pictures that need no decoding any more."""

    already_decoded = True


def _differing(attribute: str, text_name: str) -> Any:
    # Infotext values may be functions: the second pass's prompt is written only where it differs.
    def value(p: Any, index: int, **names: Any) -> str | None:
        text = getattr(p, attribute)[index]
        return text if text != names[text_name] else None

    return value


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """txt2img; `hr_*` belong to the second pass."""

    enable_hr: bool = False
    denoising_strength: float = 0.75
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_sampler_name: str | None = None
    hr_prompt: Any = ""
    hr_negative_prompt: Any = ""
    hr_cfg: float = 1.0
    hr_distilled_cfg: float = 3.5

    hr_upscale_to_x: int = field(default=0, init=False)
    hr_upscale_to_y: int = field(default=0, init=False)
    latent_scale_mode: dict[str, Any] | None = field(default=None, init=False)
    hr_c: Any = field(default=None, init=False)
    hr_uc: Any = field(default=None, init=False)
    all_hr_prompts: list[str] | None = field(default=None, init=False)
    all_hr_negative_prompts: list[str] | None = field(default=None, init=False)
    hr_prompts: list[str] | None = field(default=None, init=False)
    hr_negative_prompts: list[str] | None = field(default=None, init=False)
    hr_extra_network_data: Any = field(default=None, init=False)

    cached_hr_uc = [None, None, None]
    cached_hr_c = [None, None, None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.firstphase_width or self.firstphase_height:
            self.hr_resize_x, self.hr_resize_y = self.width, self.height
            self.width, self.height = self.firstphase_width, self.firstphase_height
        self.cached_hr_uc = StableDiffusionProcessingTxt2Img.cached_hr_uc
        self.cached_hr_c = StableDiffusionProcessingTxt2Img.cached_hr_c

    def calculate_target_resolution(self) -> None:
        """The second pass's size, in whole multiples of what the network takes."""
        if not self.hr_resize_x and not self.hr_resize_y:
            self.extra_generation_params["Hires upscale"] = self.hr_scale
            target = self.width * self.hr_scale, self.height * self.hr_scale
        else:
            self.extra_generation_params["Hires resize"] = f"{self.hr_resize_x}x{self.hr_resize_y}"
            target = (
                self.hr_resize_x or self.hr_resize_y * self.width / self.height,
                self.hr_resize_y or self.hr_resize_x * self.height / self.width,
            )
        self.hr_upscale_to_x, self.hr_upscale_to_y = (max(32, int(side) // 32 * 32) for side in target)

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Size, record and job count of the second pass."""
        if not self.enable_hr:
            return
        extra = self.extra_generation_params
        extra["Denoising strength"] = self.denoising_strength
        if self.hr_sampler_name is not None and self.hr_sampler_name != self.sampler_name:
            extra["Hires sampler"] = self.hr_sampler_name
        extra["Hires prompt"] = _differing("all_hr_prompts", "prompt_text")
        extra["Hires negative prompt"] = _differing("all_hr_negative_prompts", "negative_prompt")
        extra["Hires CFG Scale"] = self.hr_cfg
        name = self.hr_upscaler or shared.latent_upscale_default_mode
        self.latent_scale_mode = shared.latent_upscale_modes.get(name)
        if self.latent_scale_mode is None:
            raise ValueError(f"could not find upscaler named {name}")
        self.calculate_target_resolution()
        if not state.processing_has_refined_job_count:
            state.job_count = (self.n_iter if state.job_count == -1 else state.job_count) * 2
            state.processing_has_refined_job_count = True
        if self.hr_second_pass_steps:
            extra["Hires steps"] = self.hr_second_pass_steps
        if self.hr_upscaler is not None:
            extra["Hires upscaler"] = self.hr_upscaler

    def sample(self) -> Any:
        """Latents of the first pass, or pictures of the second."""
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = self.rng.next()
        self.reset_patches()
        self.announce_sampling(x=x, noise=x, c=self.c, uc=self.uc)
        samples = self.sampler.sample(self, x, self.c, self.uc)
        if not self.enable_hr or state.interrupted:
            return samples
        return self.sample_hr_pass(samples)

    def sample_hr_pass(self, samples: Tensor) -> Any:
        """Upscale and sample again. Scripts are announced to twice, with the patches reset between."""
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        size = (self.hr_upscale_to_y // opt_f, self.hr_upscale_to_x // opt_f)
        samples = torch.nn.functional.interpolate(samples, size=size, **self.latent_scale_mode)
        state.nextjob()
        self.rng = rng.ImageRNG(samples.shape[1:], self.seeds, self.subseeds, self.subseed_strength)
        noise = self.rng.next()
        if not self.disable_extra_networks:
            extra_networks.activate(self, self.hr_extra_network_data)
        with devices.autocast():
            self.calculate_hr_conds()
        tensors = {"x": samples, "noise": noise, "c": self.hr_c, "uc": self.hr_uc}
        self.announce_sampling(**tensors)
        self.reset_patches()
        self.announce_sampling(**tensors)
        samples = self.sampler.sample_img2img(
            self, samples, noise, self.hr_c, self.hr_uc, steps=self.hr_second_pass_steps or self.steps
        )
        self.sampler = None
        decoded = DecodedSamples(decode_first_stage(self.sd_model, samples))
        self.is_hr_pass = False
        return decoded

    def close(self) -> None:
        """Let go of what is large."""
        super().close()
        self.hr_c = self.hr_uc = None

    def setup_prompts(self) -> None:
        """As for the first pass; an empty hires prompt means the first pass's."""
        super().setup_prompts()
        if not self.enable_hr:
            return
        self.hr_prompt = self.prompt if self.hr_prompt == "" else self.hr_prompt
        self.hr_negative_prompt = (
            self.negative_prompt if self.hr_negative_prompt == "" else self.hr_negative_prompt
        )
        count = len(self.all_prompts)
        self.all_hr_prompts, self.all_hr_negative_prompts = self.styled(
            *(
                text if isinstance(text, list) else [text] * count
                for text in (self.hr_prompt, self.hr_negative_prompt)
            )
        )

    def calculate_hr_conds(self) -> None:
        """Encode the second pass's prompts, once."""
        if self.hr_c is not None:
            return
        size = {
            "width": self.hr_upscale_to_x,
            "height": self.hr_upscale_to_y,
            "distilled_cfg_scale": self.hr_distilled_cfg,
        }
        prompts = prompt_parser.SdConditioning(self.hr_prompts, **size)
        negatives = prompt_parser.SdConditioning(self.hr_negative_prompts, is_negative_prompt=True, **size)
        config = sd_samplers.find_sampler_config(self.hr_sampler_name or self.sampler_name)
        total_steps = config.total_steps(self.hr_second_pass_steps or self.steps)
        if self.hr_cfg == 1:
            self.hr_uc = None
            print("Skipping unconditional conditioning (HR pass) when CFG = 1. Negative Prompts are ignored.")
        else:
            self.hr_uc = self.get_conds_with_caching(
                prompt_parser.get_learned_conditioning,
                negatives,
                self.firstpass_steps,
                [self.cached_hr_uc, self.cached_uc],
                self.hr_extra_network_data,
                total_steps,
            )
        self.hr_c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning,
            prompts,
            self.firstpass_steps,
            [self.cached_hr_c, self.cached_c],
            self.hr_extra_network_data,
            total_steps,
        )

    def setup_conds(self) -> None:
        """Encode the prompts of both passes."""
        if self.is_hr_pass:
            self.hr_c = None
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_uc = self.hr_c = None
        if self.enable_hr:
            if not opts.hires_fix_use_firstpass_conds:
                extra_networks.activate(self, self.hr_extra_network_data)
            self.calculate_hr_conds()
            if not opts.hires_fix_use_firstpass_conds:
                extra_networks.activate(self, self.extra_network_data)

    def get_conds(self) -> tuple[Any, Any]:
        """Conditioning of the running pass."""
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()

    def parse_extra_network_prompts(self) -> None:
        """Take the tags out of both passes' prompts."""
        super().parse_extra_network_prompts()
        if self.enable_hr:
            rows = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.hr_negative_prompts = self.all_hr_negative_prompts[rows]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(
                self.all_hr_prompts[rows]
            )
