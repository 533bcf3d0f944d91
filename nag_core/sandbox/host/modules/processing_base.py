"""The job object that every hook receives."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from modules import devices, extra_networks, paths, prompt_parser, sd_samplers, shared
from modules.shared import opts

opt_f = 8


@dataclass(repr=False)
class StableDiffusionProcessing:
    """Everything about one job: what was asked for, and what the running batch is."""

    sd_model: object = None
    outpath_samples: str | None = None
    prompt: Any = ""
    negative_prompt: Any = ""
    styles: list[str] | None = None
    seed: Any = -1
    subseed: Any = -1
    subseed_strength: float = 0
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    distilled_cfg_scale: float = 3.5
    width: int = 512
    height: int = 512
    restore_faces: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] | None = None
    overlay_images: list[Any] | None = None
    denoising_strength: float | None = None
    s_min_uncond: float | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True
    sampler_index: Any = None
    disable_extra_networks: bool = False

    scripts_value: Any = field(default=None, init=False)
    script_args_value: Any = field(default=None, init=False)
    scripts_setup_complete: bool = field(default=False, init=False)
    comments: dict[str, int] | None = None
    sampler: Any = field(default=None, init=False)
    is_hr_pass: bool = field(default=False, init=False)
    c: Any = field(default=None, init=False)
    uc: Any = field(default=None, init=False)
    rng: Any = field(default=None, init=False)
    firstpass_steps: int = field(default=0, init=False)
    all_prompts: list[str] | None = field(default=None, init=False)
    all_negative_prompts: list[str] | None = field(default=None, init=False)
    all_seeds: list[int] | None = field(default=None, init=False)
    all_subseeds: list[int] | None = field(default=None, init=False)
    iteration: int = field(default=0, init=False)
    main_prompt: str | None = field(default=None, init=False)
    main_negative_prompt: str | None = field(default=None, init=False)
    prompts: list[str] | None = field(default=None, init=False)
    negative_prompts: list[str] | None = field(default=None, init=False)
    seeds: list[int] | None = field(default=None, init=False)
    subseeds: list[int] | None = field(default=None, init=False)
    extra_network_data: Any = field(default=None, init=False)
    sd_model_name: str | None = field(default=None, init=False)
    sd_model_hash: str | None = field(default=None, init=False)

    # Shared by all jobs on purpose: an unchanged prompt is not encoded again.
    cached_uc = [None, None, None]
    cached_c = [None, None, None]
    hr_distilled_cfg = 3.5

    def __post_init__(self) -> None:
        self.comments = {}
        self.extra_result_images: list[Any] = []
        self.outpath_samples = self.outpath_samples or os.path.join(paths.data_path, "outputs")
        self.styles = self.styles or []
        self.extra_generation_params = self.extra_generation_params or {}
        self.override_settings = self.override_settings or {}
        self.cached_uc = StableDiffusionProcessing.cached_uc
        self.cached_c = StableDiffusionProcessing.cached_c

    @property
    def scripts(self) -> Any:
        """The runner of the tab, or None."""
        return self.scripts_value

    @scripts.setter
    def scripts(self, value: Any) -> None:
        self.scripts_value = value
        self._set_up_scripts()

    @property
    def script_args(self) -> Any:
        """The flat values of all scripts' controls."""
        return self.script_args_value

    @script_args.setter
    def script_args(self, value: Any) -> None:
        self.script_args_value = value
        self._set_up_scripts()

    def _set_up_scripts(self) -> None:
        """Once, as soon as both are there; not for copies of the job."""
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.scripts_setup_complete = True
            self.scripts_value.setup_scrips(self)

    def comment(self, text: str) -> None:
        """Show a line under the pictures."""
        self.comments[text] = 1

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Prepare what is common to all batches."""

    def sample(self) -> Any:
        """Latents of one batch."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is large."""
        self.sampler = self.c = self.uc = None
        if not opts.persistent_cond_cache:
            StableDiffusionProcessing.cached_c = [None, None, None]
            StableDiffusionProcessing.cached_uc = [None, None, None]

    def setup_prompts(self) -> None:
        """One prompt and one negative prompt for every picture of the job."""
        if isinstance(self.prompt, list):
            self.all_prompts = self.prompt
        elif isinstance(self.negative_prompt, list):
            self.all_prompts = [self.prompt] * len(self.negative_prompt)
        else:
            self.all_prompts = [self.prompt] * (self.batch_size * self.n_iter)
        negative = self.negative_prompt
        self.all_negative_prompts = (
            negative if isinstance(negative, list) else [negative] * len(self.all_prompts)
        )
        if len(self.all_prompts) != len(self.all_negative_prompts):
            raise RuntimeError(
                f"Received a different number of prompts ({len(self.all_prompts)}) and negative "
                f"prompts ({len(self.all_negative_prompts)})"
            )
        self.all_prompts, self.all_negative_prompts = self.styled(self.all_prompts, self.all_negative_prompts)
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]

    def styled(self, prompts: list[str], negatives: list[str]) -> tuple[list[str], list[str]]:
        """Prompts and negative prompts with the job's styles."""
        known = shared.prompt_styles
        return (
            [known.apply_styles_to_prompt(text, self.styles) for text in prompts],
            [known.apply_negative_styles_to_prompt(text, self.styles) for text in negatives],
        )

    def cached_params(
        self,
        required_prompts: Any,
        steps: int,
        extra_network_data: Any,
        hires_steps: int | None = None,
        use_old_scheduling: bool = False,
    ) -> tuple[Any, ...]:
        """What an encoded prompt depends on; that it is a negative one is left out, as on the host."""
        return (
            required_prompts,
            self.distilled_cfg_scale,
            self.hr_distilled_cfg,
            steps,
            hires_steps,
            use_old_scheduling,
            opts.CLIP_stop_at_last_layers,
            shared.sd_model.sd_checkpoint_info,
            extra_network_data,
            self.width,
            self.height,
            opts.emphasis,
        )

    def get_conds_with_caching(
        self,
        function: Any,
        required_prompts: Any,
        steps: int,
        caches: list[list[Any]],
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        """`function(model, prompts, steps, hires_steps, old_scheduling)`, or what a cache holds for it."""
        old = prompt_parser.old_scheduling(getattr(opts, "use_old_scheduling", False))
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps, *old)
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        cache = caches[0]
        with devices.autocast():
            shared.sd_model.set_clip_skip(int(opts.CLIP_stop_at_last_layers))
            cache[1] = function(shared.sd_model, required_prompts, steps, hires_steps, *old)
        cache[0] = key
        return cache[1]

    def setup_conds(self) -> None:
        """Encode this batch's prompts; at CFG 1 the negative ones are not encoded at all."""
        size = {"width": self.width, "height": self.height, "distilled_cfg_scale": self.distilled_cfg_scale}
        prompts = prompt_parser.SdConditioning(self.prompts, **size)
        negatives = prompt_parser.SdConditioning(self.negative_prompts, is_negative_prompt=True, **size)
        total_steps = sd_samplers.find_sampler_config(self.sampler_name).total_steps(self.steps)
        self.firstpass_steps = total_steps
        if self.cfg_scale == 1:
            self.uc = None
            print("Skipping unconditional conditioning when CFG = 1. Negative Prompts are ignored.")
        else:
            self.uc = self.get_conds_with_caching(
                prompt_parser.get_learned_conditioning,
                negatives,
                total_steps,
                [self.cached_uc],
                self.extra_network_data,
            )
        self.c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning,
            prompts,
            total_steps,
            [self.cached_c],
            self.extra_network_data,
        )

    def get_conds(self) -> tuple[Any, Any]:
        """Conditioning of the running pass."""
        return self.c, self.uc

    def parse_extra_network_prompts(self) -> None:
        """Take the tags out of the batch's prompts; negative prompts keep theirs, here as on the host."""
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def save_samples(self) -> bool:
        """The sandbox writes no pictures to disk."""
        return False

    def reset_patches(self) -> None:
        """Drop every patch of an earlier pass."""
        self.sd_model.forge_objects = self.sd_model.forge_objects_after_applying_lora.shallow_copy()

    def announce_sampling(self, **tensors: Any) -> None:
        """Let scripts patch the model for the pass that is about to start."""
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(self, **tensors)


def _get_model(self: StableDiffusionProcessing) -> Any:
    return shared.sd_model


# A property under the name of the first field: the argument is accepted and ignored, as on the host.
StableDiffusionProcessing.sd_model = property(_get_model, lambda self, value: None)
