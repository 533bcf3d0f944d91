"""A model with options that patches are written into; clones share the model and own their options."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch

Patch = Callable[..., Any]


class ModelPatcher:
    """Setters write `model_options`; `clone` deep-copies it, bound methods and callable objects included."""

    def __init__(
        self,
        model: Any,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        current_device: torch.device | None = None,
    ) -> None:
        self.model, self.size = model, size
        self.load_device, self.offload_device = load_device, offload_device
        self.current_device = current_device or offload_device
        self.lora_patches: dict[Any, Any] = {}
        self.object_patches: dict[str, Any] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        """A patcher of the same model whose options can be changed freely."""
        other = type(self)(self.model, self.load_device, self.offload_device, self.size, self.current_device)
        other.lora_patches = self.lora_patches.copy()
        other.object_patches = self.object_patches.copy()
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def is_clone(self, other: Any) -> bool:
        """Whether both patch the same model."""
        return getattr(other, "model", None) is self.model

    def has_online_lora(self) -> bool:
        """The sandbox applies no LoRA."""
        return False

    def memory_required(self, input_shape: list[int]) -> float:
        """Bytes for one call."""
        return self.model.memory_required(input_shape)

    def set_model_sampler_cfg_function(
        self, sampler_cfg_function: Patch, disable_cfg1_optimization: bool = False
    ) -> None:
        """Replace the combination of cond and uncond."""
        if len(inspect.signature(sampler_cfg_function).parameters) == 3:
            self.model_options["sampler_cfg_function"] = lambda args: sampler_cfg_function(
                args["cond"], args["uncond"], args["cond_scale"]
            )
        else:
            self.model_options["sampler_cfg_function"] = sampler_cfg_function
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_post_cfg_function(
        self, post_cfg_function: Patch, disable_cfg1_optimization: bool = False
    ) -> None:
        """Change the result of the combination; functions chain."""
        self._append("sampler_post_cfg_function", post_cfg_function)
        self._keep_uncond(disable_cfg1_optimization)

    def set_model_sampler_pre_cfg_function(
        self, pre_cfg_function: Patch, disable_cfg1_optimization: bool = False
    ) -> None:
        """Change what goes into the combination; functions chain."""
        self._append("sampler_pre_cfg_function", pre_cfg_function)
        self._keep_uncond(disable_cfg1_optimization)

    def _append(self, key: str, function: Patch) -> None:
        self.model_options[key] = [*self.model_options.get(key, []), function]

    def _keep_uncond(self, disable_cfg1_optimization: bool) -> None:
        if disable_cfg1_optimization:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_unet_function_wrapper(self, unet_wrapper_function: Patch) -> None:
        """Stand between sampler and network. One slot: a later wrapper replaces an earlier one."""
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def set_model_patch(self, patch: Patch, name: str) -> None:
        """Append to a chain of patches in the network."""
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]

    def set_model_patch_replace(
        self, patch: Patch, name: str, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Take over one attention. One slot a block."""
        block = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        options = self.model_options = self.model_options.copy()
        to = options["transformer_options"] = options["transformer_options"].copy()
        replace = to["patches_replace"] = to.get("patches_replace", {}).copy()
        replace[name] = {**replace.get(name, {}), block: patch}

    def set_model_attn1_patch(self, patch: Patch) -> None:
        """Change the inputs of self-attention."""
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Patch) -> None:
        """Change the inputs of cross-attention."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Patch, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Take over one self-attention."""
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Patch, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Take over one cross-attention."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Patch) -> None:
        """Change the projected output of self-attention."""
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Patch) -> None:
        """Change the projected output of cross-attention."""
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Patch) -> None:
        """Change the output of input blocks."""
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Patch) -> None:
        """Change the output of input blocks after the skip connection was taken."""
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_output_block_patch(self, patch: Patch) -> None:
        """Change the input of output blocks."""
        self.set_model_patch(patch, "output_block_patch")

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Recorded; the sandbox swaps no attributes."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """An attribute of the model by dotted path, patched when a patch is recorded."""
        if name in self.object_patches:
            return self.object_patches[name]
        found = self.model
        for part in name.split("."):
            found = getattr(found, part)
        return found
