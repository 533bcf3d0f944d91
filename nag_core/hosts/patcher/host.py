"""What the hosts with a UNet patcher (the Forge family) do alike."""

from __future__ import annotations

from typing import Any

from torch import nn

from nag_core.hosts.base import unet_patcher
from nag_core.hosts.patcher import modifier
from nag_core.hosts.patcher.cross import CrossModel
from nag_core.passes.session import Session


class PatchedHost:
    """Installs NAG as a conditioning modifier, see modifier.py. The host drops it before its next pass."""

    def cross_model(self, network: nn.Module) -> CrossModel | None:
        """None: DiTs with cross-attention over text are Forge Neo's alone."""

    def obstacle(self, model: Any) -> str:
        """Why the model of this denoiser call cannot be hooked; empty where it can."""
        return ""

    def samples_one(self, sd_model: Any) -> bool:
        return False

    def network(self, sd_model: Any) -> nn.Module:
        return unet_patcher(sd_model).model.diffusion_model

    def install(self, p: Any, sd_model: Any, session: Session) -> None:
        modifier.install(sd_model, self, session)

    def installed(self, p: Any, sd_model: Any, session: Session) -> bool:
        return modifier.installed(sd_model, session)

    def begin_call(self, p: Any, sd_model: Any, session: Session) -> None:
        """Nothing to do: the modifier is called by the host itself."""
