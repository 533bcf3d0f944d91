"""What a job asks for: its arguments, with what the WebUI's settings, styles and pictures make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nag_core.settings.parse import Request, Settings, parse
from nag_core.settings.presets import Strength
from nag_core.webui import mask_image, negative_text, options, sender
from nag_core.webui.job import Job


def request(p: Any, args: Sequence[Any], user_presets: Mapping[str, Mapping[str, Any]]) -> Request:
    """The settings of job `p` as they will be used and recorded, and what there is to say about them.

    user_presets: those of this machine, for a job that was started on it.
    """

    def of_model(settings: Settings) -> Strength:
        return Job.of(Request(settings)).build.strength(p.sd_model)

    own = sender.of(args, user_presets)
    parsed = parse(args, own.presets, of_model)
    found = mask_image.compacted(parsed)
    if not found.settings.enabled:
        return found
    found = replace(found, settings=Job.of(found).build.ended(p.sd_model))
    found = negative_text.prepared(found, p)  # of a comment or a LoRA's tag nothing may be left
    defaulted = options.with_default_negative(found, p, own.default_negative)
    return found if defaulted is found else negative_text.prepared(defaulted, p)


def said_while_off(notes: Sequence[str]) -> str:
    """The report of a job that ends up off although something of its arguments was not understood."""
    return "; ".join(("off", *notes))
