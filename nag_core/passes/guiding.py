"""The guided paths of method/ as a pass uses them: what fails or is left out costs guidance, and is noted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nag_core.method import cross
from nag_core.method.focus import Focus, focus_on
from nag_core.method.heat import HeatMap
from nag_core.method.joint import JointCall
from nag_core.method.layout import Layout
from nag_core.method.rows import Arrangement, Batch
from nag_core.passes.session import Session

Size = tuple[int, int]  # of a latent


def rows_of(
    session: Session,
    batch: Batch,
    total: int,
    marks: Sequence[int] | None,
    device: torch.device,
    what: str = "model",
) -> Arrangement | None:
    """Which of a call's `total` rows are guided; None where none is, or nobody can tell, which is said.

    marks: as in `Batch.arrangement`, None for unknown ones. what: `attention` or `model`, which then runs
        unguided.
    """
    if session.closed:
        return None
    found = None if marks is None else batch.arrangement(total, marks, device)
    if found is None:
        session.problem(f"a batch layout nobody knows; there the {what} ran unguided")
    return found if found is not None and found.groups else None


def guide(
    session: Session,
    pos: Tensor,
    layer: cross.Layer,
    rows: Arrangement | None,
    size: Size | None = None,
    tiled: bool = False,
    may_write: bool = True,
    of: int | None = None,
) -> Tensor:
    """`pos` (rows, tokens, channels) guided by method/cross.py; as it is where that fails.

    size: of the latent, None of a video. tiled: the layer sees a part of it, which one is not known. of: how
    many tokens the layer has, `pos` and those of reference images; None where a model knows no such images.
    """
    if session.closed or rows is None:
        return pos
    try:
        focus = _focus(session, pos.shape[1], size, pos.device, tiled, session.heat)
        if not focus.guided:
            return pos
        out = cross.guide(pos, layer, rows, session.cache, session.rule(pos.device), focus, may_write)
    except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
        session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)
        return pos
    session.count(layer.key, _guided_tokens(rows, focus, pos.shape[1]), path=layer.path)
    if of is not None:
        session.picture = (pos.shape[1], of)
    return out


def joint_call(
    session: Session,
    rows: Arrangement,
    layout: Layout,
    device: torch.device,
    size: Size | None = None,
    tiled: bool = False,
    tokens: int | None = None,
) -> JointCall | None:
    """What guides one model call by method/joint.py; None where the mask leaves it out. Else as `guide`.

    tokens: of the picture, where the model pads them in the sequence.
    """
    heat = None if session.heat is None else HeatMap()
    focus = _focus(session, tokens or layout.target, size, device, tiled, heat)
    if not focus.guided:
        return None
    rule = session.rule(device, torch.zeros((), dtype=torch.int64, device=device))
    return JointCall(rows, layout, rule, focus, heat, session.chosen, session.may_merge)


def joined(session: Session, call: JointCall) -> None:
    """Takes over the counts of a joint call that has ended; `NotGuided` where its answer is worthless."""
    call.check()
    tokens = _guided_tokens(call.rows, call.focus, call.layout.target)
    session.picture = (call.layout.target, call.layout.image)
    for block in filter(session.chosen, call.entered):
        session.count(block, tokens, kind=block[0])
    session.took(call)


def _focus(
    session: Session, tokens: int, size: Size | None, device: torch.device, tiled: bool, heat: HeatMap | None
) -> Focus:
    found = focus_on(session.plan.region, heat, tokens, size, device, tiled)
    if found.problem:
        session.problem(found.problem, partly=not found.guided)
    return found


def _guided_tokens(rows: Arrangement, focus: Focus, tokens: int) -> int:
    images = sum(len(group.entries) for group in rows.groups)
    return images * (tokens if focus.spot is None else len(focus.spot.index))
