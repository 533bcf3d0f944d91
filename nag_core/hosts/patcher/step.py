"""What the hooks of one denoiser call share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from nag_core.method.rows import Batch
from nag_core.passes.session import Session


@dataclass(frozen=True, slots=True)
class Step:
    """One denoiser call: its pass, its images, and what its layers' keys depend on."""

    session: Session
    batch: Batch
    weights: Hashable  # identity of the patched weights
    size: tuple[int, int] | None = None  # of the latent; None of a video
