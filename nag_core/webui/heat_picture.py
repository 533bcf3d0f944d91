"""The heat map beside the result: where NAG acted, drawn over the picture."""

from __future__ import annotations

import inspect
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nag_core.webui import spared
from nag_core.webui.xyz import PLOT_MODULES

logger = logging.getLogger("nag")

SUFFIX = "-nag-heat"
# From nothing to the largest change, evenly spaced; readable in gray as well.
_RAMP = ((0, 0, 0), (70, 10, 110), (190, 40, 80), (245, 130, 20), (255, 230, 90))
_PICTURE_SHARE = 0.35


class HeatPicture(NamedTuple):
    """One drawn map. index, seed, prompt: its picture's, by number in the job. largest: relative change of
    the hottest token.
    """

    picture: Any
    index: int
    largest: float
    seed: int
    prompt: str


def drawn(picture: Any, heat: Tensor) -> Any:
    """A new picture (PIL) of the same size: `heat` (h, w), scaled to its largest value, over a gray
    `picture`.
    """
    from PIL import Image

    scaled = (heat / heat.max().clamp_min(1e-12) * 255).round().to(dtype=heat.dtype).clamp(0, 255).byte()
    cells = Image.frombytes("L", (heat.shape[1], heat.shape[0]), bytes(scaled.flatten().tolist()))
    cells.putpalette(_palette())
    colours = cells.convert("RGB").resize(picture.size, Image.Resampling.NEAREST)
    return Image.blend(colours, picture.convert("L").convert("RGB"), _PICTURE_SHARE)


def _palette() -> list[int]:
    colours: list[int] = []
    for value in range(256):
        place = value / 255 * (len(_RAMP) - 1)
        left = min(int(place), len(_RAMP) - 2)
        share = place - left
        colours += [round(a + (b - a) * share) for a, b in zip(_RAMP[left], _RAMP[left + 1], strict=True)]
    return colours


BESIDE = "the heat maps are files of their own, because the script of this job makes pictures of all results"


def taken_by_script(p: Any) -> bool:
    """Whether a script of the host (SD upscale, loopback, outpainting ...) makes other pictures of the job's
    results: one more among them would become a tile, and it may hand on no other. The plot hands on all.
    """
    chosen = p.script_args[0] if isinstance(p.script_args, (list, tuple)) and p.script_args else 0
    scripts = getattr(p.scripts, "selectable_scripts", None) or ()
    if not isinstance(chosen, int) or not 0 < chosen <= len(scripts):
        return False
    return type(scripts[chosen - 1]).__module__ not in PLOT_MODULES


def show(p: Any, processed: Any, pictures: list[HeatPicture]) -> None:
    """Hands the maps over, with their parameters: beside the results where the host has a place for that,
    else behind them; as files where neither would reach the user. They are saved where results are.
    """
    files = taken_by_script(p)
    for one in pictures:
        place = processed.index_of_first_image + one.index
        texts = processed.infotexts
        text = texts[place] if place < len(texts) else processed.info
        text = f"{text}, NAG heat map of: {one.largest:.1%} at most"
        one.picture.info["parameters"] = text
        beside = getattr(p, "extra_result_images", None)
        if isinstance(beside, list) and not _left_by_api(p):
            beside.append(one.picture)
        elif not files:
            processed.images.append(one.picture)
            processed.infotexts.append(text)
        _save(p, one, text, files)


def _left_by_api(p: Any) -> bool:
    """Whether this is a job by API whose host sends the results alone (reForge: modules/api/api.py)."""
    if not getattr(p, "is_api", False):
        return False
    api = getattr(sys.modules.get("modules.api.api"), "Api", None)
    answer = getattr(api, "img2imgapi" if hasattr(p, "init_images") else "text2imgapi", None)
    return inspect.isfunction(answer) and "extra_images" not in answer.__code__.co_names


def _save(p: Any, one: HeatPicture, text: str, always: bool) -> None:
    """A full disk must not cost the job its pictures."""
    if not (always or p.save_samples()):
        return
    try:
        from modules import images
        from modules.shared import opts

        saved = images.save_image(
            one.picture, p.outpath_samples, "", one.seed, one.prompt,
            opts.samples_format, info=text, p=p, suffix=SUFFIX,
        )  # fmt: skip
        if always:
            p.comment(f"NAG: heat maps are saved in {Path(saved[0]).parent}")
    except Exception as error:
        logger.warning("NAG: %s", spared.sentence("a heat map could not be saved", error))
        if always:
            p.comment(f"NAG: a heat map could not be saved ({str(error)[:120]}), and nothing else shows it")
