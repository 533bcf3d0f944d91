"""The result of a job, and the text that records how each picture was made."""

from __future__ import annotations

import json
from typing import Any

from modules import errors, infotext_utils
from modules.shared import opts, state

VERSION = "sandbox"
FROM_JOB = (
    "subseed_strength",
    "width",
    "height",
    "sampler_name",
    "cfg_scale",
    "steps",
    "batch_size",
    "restore_faces",
    "sd_model_name",
    "sd_model_hash",
    "extra_generation_params",
    "styles",
    "is_using_inpainting_conditioning",
)
IN_JSON = (
    "prompt",
    "all_prompts",
    "negative_prompt",
    "all_negative_prompts",
    "seed",
    "all_seeds",
    "subseed",
    "all_subseeds",
    *FROM_JOB,
    "denoising_strength",
    "index_of_first_image",
    "infotexts",
    "job_timestamp",
    "clip_skip",
    "version",
)


def program_version() -> str:
    """What infotexts name as the version."""
    return VERSION


class Processed:
    """Pictures with their texts."""

    def __init__(
        self,
        p: Any,
        images_list: list[Any],
        seed: int = -1,
        info: str = "",
        subseed: int | None = None,
        all_prompts: Any = None,
        all_negative_prompts: Any = None,
        all_seeds: Any = None,
        all_subseeds: Any = None,
        index_of_first_image: int = 0,
        infotexts: list[str] | None = None,
        extra_images_list: list[Any] | None = None,
    ) -> None:
        self.images = images_list
        self.extra_images = [] if extra_images_list is None else extra_images_list
        self.seed, self.subseed, self.info = int(seed), -1 if subseed is None else int(subseed), info
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        for name in FROM_JOB:
            setattr(self, name, getattr(p, name, None))
        self.denoising_strength = getattr(p, "denoising_strength", None)
        self.clip_skip, self.version = int(opts.CLIP_stop_at_last_layers), program_version()
        self.job_timestamp, self.index_of_first_image = state.job_timestamp, index_of_first_image
        self.prompt = p.prompt[0] if isinstance(p.prompt, list) else p.prompt
        negative = p.negative_prompt
        self.negative_prompt = negative[0] if isinstance(negative, list) else negative
        self.all_prompts = all_prompts or p.all_prompts or [self.prompt]
        self.all_negative_prompts = all_negative_prompts or p.all_negative_prompts or [self.negative_prompt]
        self.all_seeds = all_seeds or p.all_seeds or [self.seed]
        self.all_subseeds = all_subseeds or p.all_subseeds or [self.subseed]
        self.infotexts = infotexts or [info] * len(images_list)

    def js(self) -> str:
        """The record that the API returns as `info`; what JSON cannot hold becomes null."""
        record = {name: getattr(self, name) for name in IN_JSON}
        record["prompt"], record["negative_prompt"] = self.all_prompts[0], self.all_negative_prompts[0]
        return json.dumps(record, default=lambda value: None)

    def infotext(self, p: Any, index: int) -> str:
        """The text of one picture."""
        return create_infotext(
            p,
            self.all_prompts,
            self.all_seeds,
            self.all_subseeds,
            position_in_batch=index % self.batch_size,
            iteration=index // self.batch_size,
        )


def _base_params(p: Any, seed: int, subseed: int) -> dict[str, Any]:
    varied = p.subseed_strength != 0
    skip = int(opts.CLIP_stop_at_last_layers)
    return {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Seed": seed,
        "Size": f"{p.width}x{p.height}",
        "Model": p.sd_model_name,
        "Variation seed": subseed if varied else None,
        "Variation seed strength": p.subseed_strength if varied else None,
        "Denoising strength": p.extra_generation_params.get("Denoising strength"),
        "Clip skip": skip if skip > 1 else None,
        **p.extra_generation_params,
        "Version": program_version(),
    }


def _resolved(key: str, value: Any, index: int, names: dict[str, Any]) -> Any:
    try:
        if isinstance(value, list):
            return value[index]
        return value(**names) if callable(value) else value
    except Exception:
        errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
        return None


def create_infotext(
    p: Any,
    all_prompts: list[str],
    all_seeds: list[int],
    all_subseeds: list[int],
    iteration: int = 0,
    position_in_batch: int = 0,
    use_main_prompt: bool = False,
    index: int | None = None,
    all_negative_prompts: list[str] | None = None,
) -> str:
    """Prompt, negative prompt and a line of `key: value`. A value may be a list by picture, or a function."""
    if use_main_prompt:
        index = 0
    elif index is None:
        index = position_in_batch + iteration * p.batch_size
    negatives = p.all_negative_prompts if all_negative_prompts is None else all_negative_prompts
    prompt_text = p.main_prompt if use_main_prompt else all_prompts[index]
    negative_prompt = p.main_negative_prompt if use_main_prompt else negatives[index]
    params = _base_params(p, p.all_seeds[0] if use_main_prompt else all_seeds[index], all_subseeds[index])
    names = {
        "p": p,
        "index": index,
        "prompt_text": prompt_text,
        "negative_prompt": negative_prompt,
        "iteration": iteration,
        "position_in_batch": position_in_batch,
        "all_prompts": all_prompts,
        "all_seeds": all_seeds,
        "all_negative_prompts": negatives,
        "use_main_prompt": use_main_prompt,
    }
    params = {key: _resolved(key, value, index, names) for key, value in params.items()}
    line = ", ".join(
        key if key == value else f"{key}: {infotext_utils.quote(value)}"
        for key, value in params.items()
        if value is not None
    )
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative}\n{line}".strip()
