"""A model with options that patches are written into; clones share the model and own their options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Patch = Callable[..., Any]


class ModelPatcher:
    """Setters write `model_options`; `clone` deep-copies it, bound methods and callable objects included."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        """A patcher of the same model whose options can be changed freely."""
        other = type(self)(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        return other

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

    def set_model_attn2_patch(self, patch: Patch) -> None:
        """Change the inputs of cross-attention."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn2_replace(
        self, patch: Patch, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Take over one cross-attention."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)
