"""The `ldm_patched` generation: reForge, Forge Classic, Forge before August 2024."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from nag_core.hosts import asked
from nag_core.hosts.model import unet_patcher
from nag_core.hosts.patcher.host import PatchedHost


def probe() -> LdmPatched | None:
    """The adapter where ldm_patched's attention is importable, else None."""
    try:
        found = importlib.util.find_spec("ldm_patched.ldm.modules.attention") is not None
    except (ImportError, ValueError):
        return None
    return LdmPatched() if found else None


class LdmPatched(PatchedHost):
    """reForge, Classic, old Forge: attention from ldm_patched, LoRA identity from the patcher's uuid
    (reForge).
    """

    name = "ldm_patched"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        from ldm_patched.ldm.modules import attention

        # reForge only; None but for SD2.x, which needs fp32. The older functions have no such parameter.
        precision = {"attn_precision": extra["attn_precision"]} if "attn_precision" in extra else {}
        return attention.optimized_attention(q, k, v, extra["n_heads"], **precision)

    @property
    def attention_name(self) -> str:
        from ldm_patched.ldm.modules import attention

        return getattr(attention.optimized_attention, "__name__", "attention")

    def weights(self, model: Any) -> Hashable:
        return str(getattr(model, "current_weight_patches_uuid", None))

    def after_encoding(self, sd_model: Any, x: Tensor) -> None:
        from modules_forge.forge_sampler import sampling_prepare

        asked.call(sampling_prepare, unet_patcher(sd_model), x=x)
