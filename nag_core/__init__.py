"""Normalized Attention Guidance (NAG, arXiv 2505.21179) for the Stable Diffusion WebUI family.

README.md beside this file names the rooms and what is in them.
Importing this package does no work and holds no state: a WebUI keeps it in memory over "Reload UI".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nag_core.identity import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from nag_core.hosts.diffusers.applied import Applied

__version__ = VERSION


def applied(
    pipe: Any,
    negative: str | Sequence[str] = "",
    *,
    scale: float | None = None,
    phi: float | None = None,
    tau: float | None = None,
    alpha: float | None = None,
    start: float | None = None,
    end: float | None = None,
    method: str | None = None,
    preset: str | None = None,
    curve: str | None = None,
    blocks: str | None = None,
    negatives: str | None = None,
    vsf_offset: float | None = None,
) -> AbstractContextManager[Applied]:
    """NAG on a diffusers pipeline inside a `with` block; afterwards the pipeline is what it was.

    pipe: any pipeline whose `unet` or `transformer` is of a known family (hosts/diffusers/families.py).
    negative: one text for all prompts, or one for each prompt of the call; a blank one leaves its images
    alone. The others as in the WebUI: scale (phi is the same), tau, alpha; start and end of the steps, 0 to
    1; method, preset, curve, blocks, vsf_offset; negatives (beside an empty `negative`). Without any the
    model's row is taken as by Auto in the WebUI, with the End that some have unless start or end is given.

    Gives an object whose `report` says what was done, and `complete` whether everywhere. `UnsupportedHost`
    for a pipeline that NAG does not know, ValueError for a setting that is out of range or means nothing.
    """
    from nag_core.hosts.diffusers.applied import applied as context

    return context(
        pipe, negative, scale=scale, phi=phi, tau=tau, alpha=alpha, start=start, end=end, method=method,
        preset=preset, curve=curve, blocks=blocks, negatives=negatives, vsf_offset=vsf_offset,
    )  # fmt: skip
