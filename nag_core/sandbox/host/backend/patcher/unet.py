"""The patcher every script clones: `p.sd_model.forge_objects.unet`."""

from __future__ import annotations

from typing import Any

from backend.modules.k_model import KModel
from backend.patcher.base import ModelPatcher, Patch


class UnetPatcher(ModelPatcher):
    """Adds the hooks around one denoiser call."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.controlnet_linked_list = None
        self.extra_preserved_memory_during_sampling = 0

    @classmethod
    def from_model(cls, model: Any) -> UnetPatcher:
        """Wrap a bare network."""
        return cls(KModel(model))

    def clone(self) -> UnetPatcher:
        """A patcher of the same model whose options can be changed freely."""
        other = super().clone()
        other.controlnet_linked_list = self.controlnet_linked_list
        other.extra_preserved_memory_during_sampling = self.extra_preserved_memory_during_sampling
        return other

    def add_patched_controlnet(self, cnet: Any) -> None:
        """Put a ControlNet in front of those that are there."""
        cnet.set_previous_controlnet(self.controlnet_linked_list)
        self.controlnet_linked_list = cnet

    def add_extra_preserved_memory_during_sampling(self, memory_in_bytes: int) -> None:
        """A hint nobody needs here."""
        self.extra_preserved_memory_during_sampling += memory_in_bytes

    def append_model_option(self, k: str, v: Any, ensure_uniqueness: bool = False) -> None:
        """Append to a list among the options."""
        _append(self.model_options, k, v, ensure_uniqueness)

    def add_conditioning_modifier(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """`f(model, x, timestep, uncond, cond, cond_scale, model_options, seed)` before each call."""
        self.append_model_option("conditioning_modifiers", modifier, ensure_uniqueness)

    def add_sampler_pre_cfg_function(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """`f(model, cond, uncond, x, timestep, model_options)`, returning the same."""
        self.append_model_option("sampler_pre_cfg_function", modifier, ensure_uniqueness)


def _append(options: dict[str, Any], key: str, value: Any, unique: bool) -> None:
    entries = options.setdefault(key, [])
    if not (unique and value in entries):
        entries.append(value)
