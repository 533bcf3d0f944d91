"""The heat map beside the result: where NAG acted, drawn over the picture."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from nag_core.webui import spared

SUFFIX = "-nag-heat"
# From nothing to the largest change, evenly spaced; readable in gray as well.
_RAMP = ((0, 0, 0), (70, 10, 110), (190, 40, 80), (245, 130, 20), (255, 230, 90))
_PICTURE_SHARE = 0.35


class HeatPicture(NamedTuple):
    """One drawn map. index: of its picture in the job. largest: relative change of the hottest token."""

    picture: Any
    index: int
    largest: float


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


def show(p: Any, processed: Any, pictures: list[HeatPicture]) -> None:
    """Puts the maps behind the job's pictures, with their parameters, and saves them where the host saves
    those.
    """
    for one in pictures:
        place = processed.index_of_first_image + one.index
        texts = processed.infotexts
        text = texts[place] if place < len(texts) else processed.info
        text = f"{text}, NAG heat map of: {one.largest:.1%} at most"
        one.picture.info["parameters"] = text
        processed.images.append(one.picture)
        processed.infotexts.append(text)
        with spared.saying("a heat map could not be saved"):  # a full disk must not cost the job its pictures
            _save(p, one, text)


def _save(p: Any, one: HeatPicture, text: str) -> None:
    if not p.save_samples():
        return
    from modules import images
    from modules.shared import opts

    images.save_image(
        one.picture, p.outpath_samples, "", p.all_seeds[one.index], p.all_prompts[one.index],
        opts.samples_format, info=text, p=p, suffix=SUFFIX,
    )  # fmt: skip
