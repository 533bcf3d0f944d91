"""The patcher every script clones: `p.sd_model.forge_objects.unet`."""

from __future__ import annotations

from typing import Any

from backend.modules.k_model import KModel
from backend.patcher.base import ModelPatcher, Patch


class UnetPatcher(ModelPatcher):
    """Adds the hooks around one denoiser call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.controlnet_linked_list = None
        self.extra_preserved_memory_during_sampling = 0
        self.extra_model_patchers_during_sampling: list[ModelPatcher] = []
        self.extra_concat_condition = None

    @classmethod
    def from_model(cls, model: Any, device: Any) -> UnetPatcher:
        """Wrap a bare network."""
        return cls(KModel(model), load_device=device, offload_device=device, current_device=device)

    def clone(self) -> UnetPatcher:
        """A patcher of the same model whose options can be changed freely."""
        other = super().clone()
        other.controlnet_linked_list = self.controlnet_linked_list
        other.extra_preserved_memory_during_sampling = self.extra_preserved_memory_during_sampling
        other.extra_model_patchers_during_sampling = self.extra_model_patchers_during_sampling.copy()
        other.extra_concat_condition = self.extra_concat_condition
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

    def append_transformer_option(self, k: str, v: Any, ensure_uniqueness: bool = False) -> None:
        """Append to a list among the options the network sees."""
        _append(self.model_options["transformer_options"], k, v, ensure_uniqueness)

    def set_transformer_option(self, k: str, v: Any) -> None:
        """Set an option the network sees."""
        self.model_options["transformer_options"][k] = v

    def add_conditioning_modifier(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """`f(model, x, timestep, uncond, cond, cond_scale, model_options, seed)` before each call."""
        self.append_model_option("conditioning_modifiers", modifier, ensure_uniqueness)

    def add_sampler_pre_cfg_function(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """`f(model, cond, uncond, x, timestep, model_options)`, returning the same."""
        self.append_model_option("sampler_pre_cfg_function", modifier, ensure_uniqueness)

    def set_memory_peak_estimation_modifier(self, modifier: Patch) -> None:
        """A hint nobody needs here."""
        self.model_options["memory_peak_estimation_modifier"] = modifier

    def add_block_modifier(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """Around each block of the network."""
        self.append_transformer_option("block_modifiers", modifier, ensure_uniqueness)

    def add_block_inner_modifier(self, modifier: Patch, ensure_uniqueness: bool = False) -> None:
        """Around each layer of a block."""
        self.append_transformer_option("block_inner_modifiers", modifier, ensure_uniqueness)

    def set_model_replace_all(self, patch: Patch, target: str = "attn1") -> None:
        """Take over every attention of a kind."""
        for block_name in ("input", "middle", "output"):
            for number in range(16):
                for transformer_index in range(16):
                    self.set_model_patch_replace(patch, target, block_name, number, transformer_index)


def _append(options: dict[str, Any], key: str, value: Any, unique: bool) -> None:
    entries = options.setdefault(key, [])
    if not (unique and value in entries):
        entries.append(value)
