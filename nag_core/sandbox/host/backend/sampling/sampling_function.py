"""One denoiser call: which rows the network sees, and how its predictions are combined."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from backend.sampling.condition import compile_conditions, compile_weighted_conditions

COND, UNCOND = 0, 1


def _can_join(a: dict[str, Any], b: dict[str, Any]) -> bool:
    mine, its = a["model_conds"], b["model_conds"]
    alike = mine.keys() == its.keys() and a.get("control") is b.get("control")
    return alike and all(mine[key].can_concat(its[key]) for key in mine)


def _take_joinable(to_run: list[tuple[dict, int]]) -> list[tuple[dict, int]]:
    """Entries that go into one call with the first, last ones first, so that uncond rows lead."""
    first = to_run[0][0]
    chosen = [i for i, (entry, _) in enumerate(to_run) if _can_join(entry, first)]
    return [to_run.pop(i) for i in reversed(chosen)]


def _row_options(kinds: list[int], timestep: Tensor, model_options: dict[str, Any]) -> dict[str, Any]:
    """The dictionary the network and its patches see, with the layout of the rows."""
    size = timestep.shape[0]
    rows = [(kind, list(range(i * size, (i + 1) * size))) for i, kind in enumerate(kinds)]
    return {
        **model_options.get("transformer_options", {}),
        "cond_or_uncond": kinds[:],
        "sigmas": timestep,
        "cond_mark": torch.tensor([float(kind) for kind in kinds for _ in range(size)], dtype=timestep.dtype),
        "cond_indices": [row for kind, found in rows if kind == COND for row in found],
        "uncond_indices": [row for kind, found in rows if kind == UNCOND for row in found],
    }


def _add_control(
    c: dict[str, Any], control: Any, input_x: Tensor, timestep: Tensor, kinds: list[int]
) -> None:
    """What the ControlNets add in this call; each of them sees the options that the network sees."""
    net = control
    while net is not None:
        net.transformer_options = c["transformer_options"]
        net = net.previous_controlnet
    if control is not None:
        c["control"] = control.get_control(input_x, timestep, c.copy(), len(kinds))
        c["control_model"] = control


def calc_cond_uncond_batch(
    model: Any,
    cond: list[dict],
    uncond: list[dict] | None,
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Predictions for cond (weighted mean of its parts) and uncond (zeros where there is none)."""
    sums = [torch.zeros_like(x_in), torch.zeros_like(x_in)]
    counts = [torch.full_like(x_in, 1e-37), torch.full_like(x_in, 1e-37)]
    to_run = [(entry, COND) for entry in cond] + [(entry, UNCOND) for entry in uncond or []]
    while to_run:
        batch = _take_joinable(to_run)
        kinds = [kind for _, kind in batch]
        conds = [
            {
                key: value.process_cond(x_in.shape[0], x_in.device)
                for key, value in entry["model_conds"].items()
            }
            for entry, _ in batch
        ]
        c: dict[str, Any] = {
            key: conds[0][key].concat([other[key] for other in conds[1:]]) for key in conds[0]
        }
        c["transformer_options"] = _row_options(kinds, timestep, model_options)
        input_x, timestep_ = torch.cat([x_in] * len(batch)), torch.cat([timestep] * len(batch))
        _add_control(c, batch[0][0].get("control"), input_x, timestep_, kinds)
        wrapper = model_options.get("model_function_wrapper")
        if wrapper is not None:
            output = wrapper(
                model.apply_model, {"input": input_x, "timestep": timestep_, "c": c, "cond_or_uncond": kinds}
            )
        else:
            output = model.apply_model(input_x, timestep_, **c)
        for part, (entry, kind) in zip(output.chunk(len(batch)), batch, strict=False):
            strength = entry.get("strength", 1.0)
            sums[kind] += part * strength
            counts[kind] += strength
    return sums[COND] / counts[COND], sums[UNCOND] / counts[UNCOND]


def sampling_function_inner(
    model: Any,
    x: Tensor,
    timestep: Tensor,
    uncond: list[dict] | None,
    cond: list[dict],
    cond_scale: float,
    model_options: dict[str, Any],
    seed: int | None = None,
    return_full: bool = False,
) -> Any:
    """Classifier-free guidance with the hooks around it; the uncond is dropped at scale 1."""
    strength = sum(entry.get("strength", 1) for entry in cond)
    used_uncond = None if math.isclose(cond_scale, 1.0) else uncond
    for fn in model_options.get("sampler_pre_cfg_function", []):
        model, cond, used_uncond, x, timestep, model_options = fn(
            model, cond, used_uncond, x, timestep, model_options
        )
    cond_pred, uncond_pred = calc_cond_uncond_batch(model, cond, used_uncond, x, timestep, model_options)
    scale = cond_scale if math.isclose(strength, 1.0) else cond_scale * strength
    result = uncond_pred + (cond_pred - uncond_pred) * scale
    return (result, cond_pred, uncond_pred) if return_full else result


def sampling_function(
    denoiser: Any, denoiser_params: Any, cond_scale: float, cond_composition: list[list[tuple[int, float]]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The prediction at one step. The patcher is read afresh, so a script may replace it between steps."""
    unet = denoiser.inner_model.inner_model.forge_objects.unet
    model, model_options = unet.model, unet.model_options
    x, timestep, seed = denoiser_params.x, denoiser_params.sigma, denoiser.p.seeds[0]
    uncond = compile_conditions(denoiser_params.text_uncond)
    cond = compile_weighted_conditions(denoiser_params.text_cond, cond_composition)
    if unet.controlnet_linked_list is not None:
        for entry in [*cond, *(uncond or [])]:
            entry["control"] = unet.controlnet_linked_list
    for modifier in model_options.get("conditioning_modifiers", []):
        model, x, timestep, uncond, cond, cond_scale, model_options, seed = modifier(
            model, x, timestep, uncond, cond, cond_scale, model_options, seed
        )
    return sampling_function_inner(model, x, timestep, uncond, cond, cond_scale, model_options, seed, True)


def sampling_prepare(unet: Any, x: Tensor) -> None:
    """Where a host brings the unet to its device; here everything lives in main memory."""
