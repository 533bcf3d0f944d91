"""Which tokens of a layer are guided, and who wants to know what it did to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nag_core.method.heat import HeatMap
from nag_core.method.merge import Part
from nag_core.method.region import Region, Spot, token_grid
from nag_core.method.rows import Group
from nag_core.method.rule import Rule

# The rows' group, their image tokens before and after the guidance, (rows, tokens, channels) each.
Note = Callable[[Group, Tensor, Tensor], None]


class Focus(NamedTuple):
    """How one layer is guided. guided: whether at all. spot: only these tokens. note: told what it did.
    problem: why the mask or the heat map leaves the layer out.
    """

    guided: bool = True
    spot: Spot | None = None
    note: Note | None = None
    problem: str = ""

    def queries(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """Of the image tokens along `dim` those that are guided."""
        return tokens if self.spot is None else tokens.index_select(dim, self.spot.index)

    def write(self, out: Tensor, pos: Part, neg: Part, rule: Rule, group: Group) -> None:
        """The guided tokens over `out` (rows, tokens, channels), which may be a view and may be z+ itself;
        every other token keeps its bits. neg, and the log-sum-exps of both: of the tokens that
        `queries` gives.
        """
        if self.spot is not None:
            before = self.queries(pos.out)
            guided = before.clone()
            rule.write(guided, Part(guided, pos.lse), neg)
            after = self.spot.blend(before, guided)
            out[:, self.spot.index] = after
        else:
            before = pos.out.clone() if self.note and pos.out is out else pos.out
            rule.write(out, pos, neg)
            after = out
        if self.note is not None:
            self.note(group, before, after)


EVERYWHERE, NOWHERE = Focus(), Focus(guided=False)


def focus_on(
    region: Region | None,
    heat: HeatMap | None,
    tokens: int,
    size: tuple[int, int] | None,
    device: torch.device,
    tiled: bool = False,
) -> Focus:
    """The focus of a layer of so many image tokens over a latent of `size`, by a mask and a heat map. What
    stands behind these tokens is padding.

    Where nobody can tell which token is where, a mask leaves the layer unguided (and says so) and the heat
    map does without it. size: None of a video, whose frames' tokens nobody tells apart here. tiled: the layer
    sees a part of the picture, and which one is not known.
    """
    if region is None and heat is None:
        return EVERYWHERE
    side = None if tiled or size is None else token_grid(tokens, *size)
    if side is None:
        why = "tiles" if tiled else "video" if size is None else "grid"
        if region is None:
            return Focus(problem=_NO_HEAT[why])
        return Focus(guided=False, problem=_NO_MASK[why])
    spot = None
    if region is not None:
        spot = region.on(size, side, device)
        if spot is None:
            return NOWHERE
        if len(spot.index) == tokens and spot.weight is None:
            spot = None
    return Focus(True, spot, _note(heat, size, side, spot, tokens))


_NO_MASK = {
    "tiles": "tiles and a mask cannot be combined",
    "video": "a mask is not possible on video yet",
    "grid": "the mask does not fit some layers",
}
_NO_HEAT = {
    "tiles": "no heat map of tiles",
    "video": "no heat map of video yet",
    "grid": "the heat map leaves out some layers, whose tokens have no known place",
}


def _note(
    heat: HeatMap | None, size: tuple[int, int], side: int, spot: Spot | None, tokens: int
) -> Note | None:
    if heat is None:
        return None

    def note(group: Group, before: Tensor, after: Tensor) -> None:
        heat.note(group.images, size, side, spot, before[:, :tokens], after[:, :tokens])

    return note
