"""Whether a pipeline and the settings leave NAG something to do, and what must not run beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from nag_core.hosts.compiled import RUNS_UNCOMPILED, is_compiled, uncompiled, why_compiled_only
from nag_core.hosts.diffusers.families import compiled_or_not, family_of
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings import strength
from nag_core.settings.blocks import Choice, choose, listing, parse_blocks
from nag_core.settings.parse import Settings

logger = logging.getLogger("nag")


def why_not(model: nn.Module, settings: Settings, negative: str | Sequence[str]) -> str:
    """Why nothing is done at all; empty if there is something to do."""
    family = family_of(model)
    reason = strength.asks_nothing(settings, strength.of(settings, family.preset(model), family.mechanism))
    if reason:
        return reason
    if not any(text.strip() for text in ([negative] if isinstance(negative, str) else negative)):
        return "the negative prompt is empty"
    chosen = chosen_blocks(model, settings)
    return no_such_blocks(model, chosen) if chosen is not None and not chosen.blocks else ""


def chosen_blocks(model: nn.Module, settings: Settings) -> Choice | None:
    """The blocks that the settings choose of the model's, None for all of them."""
    terms = parse_blocks(settings.blocks)
    return choose(terms, family_of(model).blocks(model).values()) if terms else None


def no_such_blocks(model: nn.Module, chosen: Choice) -> str:
    """Which of the terms name none of the model's blocks, and what there is."""
    available = listing(family_of(model).blocks(model).values())
    return f"no blocks {', '.join(chosen.unknown)} here; this model has {available}"


# Parts of the names of diffusers' hooks that answer for a block with what it gave before.
CACHES = ("cache", "fbc_", "pyramid", "taylor")


def refuse_caches(pipe: Any, model: nn.Module) -> None:
    """First-block cache, pyramid attention broadcast, TeaCache and their like hold results of unguided
    calls.

    Cache-DiT and ParaAttention mark the model, and the pipeline's class as well: for every pipeline of it.
    """
    registries = (getattr(part, "_diffusers_hook", None) for part in model.modules())
    names = [name for registry in registries for name in getattr(registry, "hooks", ())]
    enabled = getattr(model, "is_cache_enabled", False) or getattr(model, "enable_teacache", False)
    enabled = enabled or getattr(model, "_is_cached", False) or vars(pipe).get("_is_cached", False)
    if enabled or any(part in name for name in names for part in CACHES):
        raise UnsupportedHost("the model keeps block outputs over the steps; disable that cache first")


def as_written(pipe: Any) -> AbstractContextManager:
    """Runs compiled models as they were written: compiled code has the attention baked in."""
    if not any(is_compiled(model) for model in compiled_or_not(pipe)):
        return nullcontext()
    if obstacle := why_compiled_only():
        raise UnsupportedHost(obstacle)
    logger.info("NAG: %s", RUNS_UNCOMPILED)
    return uncompiled()
