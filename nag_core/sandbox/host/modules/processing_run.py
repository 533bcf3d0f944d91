"""The main loop of a job. The order of script hooks here is the host contract."""

from __future__ import annotations

import os
import random
from typing import Any

import torch
from PIL import Image

from modules import devices, extra_networks, images, paths, rng, scripts, sd_models
from modules.processed import Processed, create_infotext
from modules.processing_base import opt_f
from modules.sd_samplers_common import decode_first_stage, to_pil
from modules.shared import cmd_opts, opts, state

LARGEST_SEED = 4294967294
MULTIPLE = 32


def get_fixed_seed(seed: Any) -> int:
    """The seed, or a random one for -1, empty and unreadable."""
    try:
        seed = int(seed)
    except (TypeError, ValueError):
        seed = -1
    return random.randrange(LARGEST_SEED) if seed == -1 else seed


def fix_seed(p: Any) -> None:
    """Decide on random seeds now, so that a repeated job uses the same ones."""
    p.seed, p.subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)


def process_images(p: Any) -> Processed:
    """Do the job under its settings overrides, which are taken back afterwards."""
    if p.scripts is not None:
        p.scripts.before_process(p)
    # A checkpoint that is not there: the one of the settings draws, as on the host.
    if p.override_settings.get("sd_model_checkpoint") not in sd_models.checkpoints_list:
        p.override_settings.pop("sd_model_checkpoint", None)
    stored = {key: opts.data[key] for key in p.override_settings if key in opts.data}
    try:
        for key, value in p.override_settings.items():
            opts.set(key, value, run_callbacks=False)
        sd_models.forge_model_reload()
        return process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            opts.data.update(stored)


def process_images_inner(p: Any) -> Processed:
    """All batches of the job."""
    if p.prompt is None or p.prompt == []:
        raise AssertionError("a job needs a prompt")
    _prepare_job(p)
    if p.scripts is not None:
        p.scripts.process(p)
    infotexts: list[str] = []
    output: list[Image.Image] = []
    with torch.inference_mode(), devices.autocast():
        p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        if state.job_count == -1:
            state.job_count = p.n_iter
        for number in range(p.n_iter):
            p.iteration = number
            state.skipped = False
            if state.interrupted or state.stopping_generation or not _prepare_batch(p, number):
                break
            _finish_batch(p, number, _sample_batch(p), output, infotexts)
        if not infotexts:
            infotexts.append(Processed(p, []).infotext(p, 0))
        first = _add_grid(p, output, infotexts)
    if not p.disable_extra_networks and p.extra_network_data:
        extra_networks.deactivate(p, p.extra_network_data)
    result = Processed(
        p,
        output,
        seed=p.all_seeds[0],
        info=infotexts[0],
        subseed=p.all_subseeds[0],
        index_of_first_image=first,
        infotexts=infotexts,
        extra_images_list=p.extra_result_images,
    )
    if p.scripts is not None:
        p.scripts.postprocess(p, result)
    return result


def _prepare_job(p: Any) -> None:
    model = p.sd_model
    p.width, p.height = (max(MULTIPLE, int(side) // MULTIPLE * MULTIPLE) for side in (p.width, p.height))
    p.sd_model_name, p.sd_model_hash = model.sd_checkpoint_info.name_for_extra, model.sd_model_hash
    model.comments, model.extra_generation_params = [], {}
    p.s_min_uncond = opts.s_min_uncond if p.s_min_uncond is None else p.s_min_uncond
    p.setup_prompts()
    count = len(p.all_prompts)
    if isinstance(p.seed, list):
        p.all_seeds = p.seed
    else:
        seed = get_fixed_seed(p.seed)
        p.all_seeds = [seed + (i if p.subseed_strength == 0 else 0) for i in range(count)]
    if isinstance(p.subseed, list):
        p.all_subseeds = p.subseed
    else:
        subseed = get_fixed_seed(p.subseed)
        p.all_subseeds = [subseed + i for i in range(count)]


def _prepare_batch(p: Any, number: int) -> bool:
    """Everything up to the encoded prompts; whether there is a batch to sample."""
    model = p.sd_model
    model.forge_objects = model.forge_objects_original.shallow_copy()
    rows = slice(number * p.batch_size, (number + 1) * p.batch_size)
    p.prompts, p.negative_prompts = p.all_prompts[rows], p.all_negative_prompts[rows]
    p.seeds, p.subseeds = p.all_seeds[rows], p.all_subseeds[rows]
    shape = (model.forge_objects.vae.latent_channels, p.height // opt_f, p.width // opt_f)
    p.rng = rng.ImageRNG(shape, p.seeds, p.subseeds, p.subseed_strength)
    batch = {"batch_number": number, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    if not p.prompts:
        return False
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        extra_networks.activate(p, p.extra_network_data)
    p.reset_patches()
    if p.scripts is not None:
        p.scripts.process_batch(p, **{**batch, "prompts": p.prompts})
    p.setup_conds()
    p.extra_generation_params.update(model.extra_generation_params)
    if number == 0 and not cmd_opts.no_prompt_history:
        with open(os.path.join(paths.data_path, "params.txt"), "w", encoding="utf8") as file:
            file.write(Processed(p, []).infotext(p, 0))
    for comment in model.comments:
        p.comment(comment)
    if p.n_iter > 1:
        state.job = f"Batch {number + 1} out of {p.n_iter}"
    return True


def _sample_batch(p: Any) -> torch.Tensor:
    """Pictures of the batch as one tensor in [0, 1]."""
    samples = p.sample()
    if getattr(samples, "already_decoded", False):
        decoded = torch.stack(list(samples))
    else:
        decoded = decode_first_stage(p.sd_model, samples)
    state.nextjob()
    return ((decoded.float() + 1) / 2).clamp(0, 1)


def _finish_batch(
    p: Any, number: int, pictures: Any, output: list[Image.Image], infotexts: list[str]
) -> None:
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, pictures, batch_number=number)
        rows = slice(number * p.batch_size, (number + 1) * p.batch_size)
        p.prompts, p.negative_prompts = p.all_prompts[rows], p.all_negative_prompts[rows]
        args = scripts.PostprocessBatchListArgs(list(pictures))
        p.scripts.postprocess_batch_list(p, args, batch_number=number)
        pictures = args.images
    for i, picture in enumerate(pictures):
        p.batch_index = i
        image = _finish_picture(p, i, to_pil(picture))
        text = create_infotext(
            p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts
        )
        infotexts.append(text)
        if opts.enable_pnginfo:
            image.info["parameters"] = text
        output.append(image)


def _finish_picture(p: Any, i: int, image: Image.Image) -> Image.Image:
    index = i + p.iteration * p.batch_size
    overlay = (p.overlay_images or [])[i : i + 1]
    mask = getattr(p, "mask_for_overlay", None)
    if p.scripts is not None:
        shown = scripts.PostprocessImageArgs(image, index)
        p.scripts.postprocess_image(p, shown)
        image = shown.image
    if overlay and mask is not None:
        image = Image.composite(image, overlay[0], mask)
    if p.scripts is None:
        return image
    shown = scripts.PostprocessImageArgs(image, index)
    p.scripts.postprocess_image_after_composite(p, shown)
    return shown.image


def _add_grid(p: Any, output: list[Image.Image], infotexts: list[str]) -> int:
    """Put a grid first where one is wanted; the number of the first single picture."""
    if (
        not opts.return_grid
        or p.do_not_save_grid
        or (len(output) < 2 and opts.grid_only_if_multiple)
        or not output
    ):
        return 0
    grid = images.image_grid(output, p.batch_size)
    text = create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, use_main_prompt=True)
    grid.info["parameters"] = text
    infotexts.insert(0, text)
    output.insert(0, grid)
    return 1
