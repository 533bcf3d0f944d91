"""What the hosts with a UNet patcher (the Forge family) do alike."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from nag_core.hosts import asked
from nag_core.hosts.base import Host
from nag_core.hosts.compiled import is_compiled, original
from nag_core.hosts.model import unet_patcher
from nag_core.hosts.patcher import modifier
from nag_core.hosts.patcher.texts import texts_in_use
from nag_core.passes.session import Session

logger = logging.getLogger("nag")


class PatchedHost(Host):
    """Installs NAG as a conditioning modifier, see modifier.py. The host drops it before its next pass."""

    def network(self, sd_model: Any) -> nn.Module:
        return original(unet_patcher(sd_model).model.diffusion_model)

    def compiled(self, model: Any) -> bool:
        # reForge's --torch-compile and Neo before the spring of 2026 put a compiled network in its place.
        return is_compiled(model.diffusion_model)

    def install(self, p: Any, sd_model: Any, session: Session, schedules: tuple | None = None) -> None:
        modifier.install(sd_model, self, session, texts_in_use(p, schedules))

    def installed(self, p: Any, sd_model: Any, session: Session) -> bool:
        return modifier.installed(sd_model, session)

    def reserve_memory(self, unet: Any, tokens: int) -> None:
        """The estimate is rough: a joint block holds some 60 values of the hidden size per token, in 16 bits,
        and the partial attentions and their merge take about 192 MiB at 1024 x 1024.
        """
        network = original(unet.model.diffusion_model)
        joint = self.joint_model(network)
        if joint is None or not hasattr(unet, "add_extra_preserved_memory_during_sampling"):
            return
        last = getattr(getattr(network, "final_layer", None), "linear", None)
        width = int(getattr(last, "in_features", 0)) or 3072  # Flux's hidden size
        reserve = unet.add_extra_preserved_memory_during_sampling
        try:
            asked.call(reserve, 192 * 2**20 + tokens * width * 120)
        except asked.HostChanged as reason:  # a picture that fits needs no reserve
            logger.debug("NAG: %s", reason)
