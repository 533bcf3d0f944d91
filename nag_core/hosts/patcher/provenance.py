"""Where the context of a model call came from: the prompt or the uncond, and which of their parts.

The host's marks (`cond_or_uncond`) say in whose place rows are computed, which is not always whose they are:
self-attention guidance (SAG) has the uncond computed in the prompt's place. Tensors are never compared:
copies of the step's conditions carry their origin through the host's batching. Whoever changes the text on
the way (a patch, a wrapper) makes another tensor, whose origin is unknown; then the host's marks are the
truth.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from nag_core.hosts.patcher.wrapper import ApplyModel

logger = logging.getLogger("nag")

MARKS = "nag_cond_or_uncond"


class Origin(NamedTuple):
    """Of one chunk of a context. mark: as the host's, 0 of the prompt, 1 of the uncond. place: in the list of
    conditions (AND).
    """

    mark: int
    place: int = 0


class Provenance:
    """Which context tensors of one denoiser call came from where."""

    def __init__(self) -> None:
        self.known: list[tuple[weakref.ref, tuple[Origin, ...]]] = []

    def note(self, context: Tensor, origins: tuple[Origin, ...]) -> None:
        self.known.append((weakref.ref(context), origins))

    def of(self, context: Any) -> tuple[Origin, ...] | None:
        """The origins of exactly this tensor's chunks; None for every other."""
        known = () if context is None else self.known  # a reference to what is gone is None, too
        return next((origins for seen, origins in known if seen() is context), None)


def told_apart(given: tuple) -> tuple[Any, Any, dict, Provenance]:
    """Copies of a denoiser call's conditions, unconditions and options, whose model calls know by their
    context which rows are the prompt's; and what tells where a context came from.

    given: (cond, uncond, model_options), as the host has them; returned as they are where they cannot be
        traced.
    """
    cond, uncond, options = given
    provenance = Provenance()
    try:
        cond, uncond = traced(cond, 0, provenance), traced(uncond, 1, provenance)
    except Exception as error:  # the host's marks remain, and nothing is reused
        logger.debug("NAG: the origin of the texts cannot be told here", exc_info=error)
        return (*given, Provenance())
    return cond, uncond, _marked(options, provenance), provenance


def traced(conds: list[dict] | None, mark: int, provenance: Provenance) -> list[dict] | None:
    """Copies of the host's compiled conditions whose joined context `provenance` will recognise. mark: as in
    `Origin`.
    """
    if conds is None:
        return None
    copies = []
    for place, cond in enumerate(conds):
        parts = cond["model_conds"]
        condition = _traced_kind(type(parts["c_crossattn"]))(parts["c_crossattn"].cond)
        condition.origin, condition.provenance = Origin(mark, place), provenance
        condition.made_from = condition.cond
        copies.append({**cond, "model_conds": {**parts, "c_crossattn": condition}})
    return copies


@functools.cache
def _traced_kind(kind: type) -> type:
    """The host's condition class, with an origin that survives process_cond and is noted at concat."""

    class Traced(kind):
        origin: Origin | None = None
        provenance: Provenance | None = None
        made_from: Tensor | None = None

        def process_cond(self, *args: Any, **kwargs: Any) -> Any:
            processed = super().process_cond(*args, **kwargs)
            # Not of a copy into which somebody put another text.
            if isinstance(processed, Traced) and self.cond is self.made_from:
                processed.origin, processed.provenance = self.origin, self.provenance
            return processed

        def concat(self, others: list) -> Tensor:
            joined = super().concat(others)
            origins = tuple(getattr(one, "origin", None) for one in (self, *others))
            if None not in origins:
                self.provenance.note(joined, origins)
            return joined

    return Traced


def _marked(model_options: dict, provenance: Provenance) -> dict:
    """A copy of `model_options` whose model calls carry marks by origin where those differ from the host's.

    Around every other wrapper, as one of those may take the context apart (MultiDiffusion's tiles). The
    host's own marks stay for others, SAG among them.
    """
    theirs = model_options.get("model_function_wrapper")

    def wrapper(apply: ApplyModel, arguments: dict) -> Tensor:
        c = arguments["c"]
        origins, options = provenance.of(c.get("c_crossattn")), c.get("transformer_options") or {}
        marks, host = [one.mark for one in origins or ()], options.get("cond_or_uncond") or ()
        if len(marks) == len(host) and marks != list(host):
            c = {**c, "transformer_options": {**options, MARKS: marks}}
            arguments = {**arguments, "c": c}
        if theirs is not None:
            return theirs(apply, arguments)
        return apply(arguments["input"], arguments["timestep"], **c)

    return {**model_options, "model_function_wrapper": wrapper}


def marks_of(transformer_options: Mapping[str, Any] | None) -> Sequence[int] | None:
    """The marks of a call's chunks, 0 of the prompt, 1 of the uncond: by origin, else the host's own."""
    options = transformer_options or {}
    return options.get(MARKS) or options.get("cond_or_uncond")
