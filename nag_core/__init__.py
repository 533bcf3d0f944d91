"""Normalized Attention Guidance (NAG, arXiv 2505.21179) for the Stable Diffusion WebUI family.

README.md beside this file names the rooms and what is in them.
Importing this package does no work and holds no state: a WebUI keeps it in memory over "Reload UI".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from nag_core.hosts.diffusers.applied import Applied

__version__ = "0.1.0"


def applied(pipe: Any, negative: str | Sequence[str], **settings: Any) -> AbstractContextManager[Applied]:
    """NAG on a diffusers pipeline inside a `with` block; afterwards the pipeline is what it was.

    pipe: any pipeline whose `unet` or `transformer` is of a known family (hosts/diffusers/families.py).
    negative: one text for all prompts, or one for each prompt of the call; a blank one leaves its images
    alone. settings: scale (or phi), tau, alpha, start, end, method, preset, curve, blocks, negatives (beside
        an empty `negative`), as in the WebUI; without any the paper's values for the model are taken.

    Gives an object whose `report` says what was done. `UnsupportedHost` for a pipeline that NAG does not
    know, ValueError for a setting that does not exist or is out of range.
    """
    from nag_core.hosts.diffusers.applied import applied as context

    return context(pipe, negative, **settings)
