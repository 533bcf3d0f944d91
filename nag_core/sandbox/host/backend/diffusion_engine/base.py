"""The three views of a model that a job resets to: as loaded, with LoRA, and as patched for one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class ForgeObjects:
    """The patchable parts of a model."""

    unet: Any
    clip: Any
    vae: Any
    clipvision: Any = None

    def shallow_copy(self) -> ForgeObjects:
        """The same parts in a new holder, so that replacing one leaves the original alone."""
        return ForgeObjects(self.unet, self.clip, self.vae, self.clipvision)
