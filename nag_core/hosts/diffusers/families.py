"""What NAG must know of each diffusers model: which attention is over text, and how the text gets there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.hosts.compiled import named_modules, original
from nag_core.hosts.diffusers.places import Place, by_ids, by_shapes, whole
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings import families
from nag_core.settings.blocks import Block
from nag_core.settings.families import CROSS, JOINT


class Family(NamedTuple):
    """One architecture.

    mechanism: CROSS or JOINT. attentions: the attention over text, as (part of the module's name before the
        block's number, its end, kind of block in the report). embed: the text as cross-attention gets it,
        from what the model gets. tokens: how many image tokens the model makes of its input. image_first:
        [image, text] in joint attention.
    mask_at: place of the text's mask in what the pipeline's encode_prompt returns. crops: tokens outside of
        that mask are left out of the negative (the model hides them, or the pipeline adds them in a batch
        only); else the mask goes to the model.
    positioned: text tokens have positions; the model's `pos_embed` returns the image's and the text's.
    place: where among the image tokens the picture's are, from the model, its arguments and their number.
    text: the argument with the text. lays_out: the model's method that makes one sequence of text and image,
    where no argument does; refiner: the attention among the text's tokens before that, as `attentions`.
    prefix: the text stands in the sequence, but never sees the image.
    """

    mechanism: str
    attentions: tuple[tuple[str, str, str], ...]
    embed: Callable[[nn.Module, Tensor], Tensor] = lambda _model, text: text
    tokens: Callable[[nn.Module, Tensor], int] = lambda _model, latent: latent.shape[1]
    image_first: bool = False
    mask_at: int | None = None
    crops: bool = False
    positioned: bool = False
    place: Callable[[nn.Module, dict[str, Any], int], Place] = whole
    text: str = "encoder_hidden_states"
    lays_out: str = ""
    refiner: tuple[str, str] = ("", "")
    prefix: bool = False

    def layers(self, model: nn.Module) -> dict[nn.Module, tuple[str, int]]:
        """The attention modules over text, each with (kind, running number within its kind)."""
        found: dict[nn.Module, tuple[str, int]] = {}
        numbers: dict[str, int] = {}
        for name, module in named_modules(model):
            for start, end, kind in self.attentions:
                if name.startswith(start) and name.endswith(end) and _is_over_text(name, module):
                    numbers[kind] = numbers.get(kind, -1) + 1
                    found[module] = (kind, numbers[kind])
        return found

    def among_texts(self, model: nn.Module) -> frozenset[nn.Module]:
        """The attention modules of the text's refiner."""
        start, end = self.refiner
        return frozenset(
            module
            for name, module in named_modules(model)
            if start and name.startswith(start) and name.endswith(end)
        )

    def preset(self, model: nn.Module) -> str:
        """The name by which presets know the model."""
        found = families.of_class(type(model))
        return found.name if found else _unet(model)

    def blocks(self, model: nn.Module) -> dict[nn.Module, Block]:
        """The same modules, each with the block it is in, named and numbered as in the WebUIs."""
        if hasattr(model, "down_blocks"):
            return _unet_blocks(model)
        kinds = {"": "cross"}
        return {
            module: (kinds.get(kind, kind), place) for module, (kind, place) in self.layers(model).items()
        }


def _is_over_text(name: str, module: nn.Module) -> bool:
    """A UNet's first attention is, too, where it is built with only_cross_attention (SD's x4 upscaler)."""
    first = name.endswith("attn1")
    return hasattr(module, "processor") and (not first or getattr(module, "is_cross_attention", False))


def _unet_blocks(model: nn.Module) -> dict[nn.Module, Block]:
    """By the numbers that the original UNet's lists have: the first input block is the convolution at the
    entrance, and each downsampling is a block of its own; upsampling is in the block before it.
    """
    named: list[tuple[Block, nn.Module | None]] = []
    number = 1
    for level in model.down_blocks:
        attentions = getattr(level, "attentions", ())
        named += [(("input", number + place), one) for place, one in enumerate(attentions)]
        number += len(level.resnets) + bool(level.downsamplers)
    named.append((("middle", 0), model.mid_block))
    number = 0
    for level in model.up_blocks:
        attentions = getattr(level, "attentions", ())
        named += [(("output", number + place), one) for place, one in enumerate(attentions)]
        number += len(level.resnets)
    return {
        module: block
        for block, part in named
        for name, module in (() if part is None else named_modules(part))
        if name.endswith(("attn1", "attn2")) and _is_over_text(name, module)
    }


def _unet(model: nn.Module) -> str:
    width = model.config.cross_attention_dim
    width = width[-1] if isinstance(width, (tuple, list)) else width
    if getattr(model.config, "addition_embed_type", None) == "text_time":
        return "SDXL"
    return "SD2" if width == 1024 else "SD1.5"


def _unet_text(model: nn.Module, text: Tensor) -> Tensor:
    """The context as it is, or as the UNet projects it; an IP-Adapter's projection of images takes that one's
    place, and the text's moves beside it (Kolors).
    """
    moved = getattr(model, "text_encoder_hid_proj", None)
    if moved is not None:
        return moved(text)
    by_text = getattr(model.config, "encoder_hid_dim_type", None) == "text_proj"
    return model.encoder_hid_proj(text) if by_text else text


def _caption(model: nn.Module, text: Tensor) -> Tensor:
    """PixArt's and SANA's projection of the text; SANA norms it, too."""
    text = text if model.caption_projection is None else model.caption_projection(text)
    norm = getattr(model, "caption_norm", None)
    return text if norm is None else norm(text)


def _wan_text(model: nn.Module, text: Tensor) -> Tensor:
    return model.condition_embedder.text_embedder(text)


def _patches(model: nn.Module, latent: Tensor) -> int:
    size = model.config.patch_size
    return (latent.shape[-2] // size) * (latent.shape[-1] // size)


_BLOCKS = ("transformer_blocks.", ".attn", "double")
_SINGLE = ("single_transformer_blocks.", ".attn", "single")
_JOINT = ("transformer_blocks.", ".attn", "joint")
_TEXT = (("transformer_blocks.", ".attn2", ""),)
FAMILIES: dict[str, Family] = {
    "UNet2DConditionModel": Family(
        CROSS, (("", ".attn1", ""), ("", ".attn2", "")), _unet_text
    ),
    "PixArtTransformer2DModel": Family(
        CROSS, _TEXT, _caption, mask_at=1, crops=True
    ),
    "SanaTransformer2DModel": Family(CROSS, _TEXT, _caption, mask_at=1, crops=True),
    "WanTransformer3DModel": Family(CROSS, (("blocks.", ".attn2", ""),), _wan_text),
    "FluxTransformer2DModel": Family(JOINT, (_BLOCKS, _SINGLE), place=by_ids),
    "Flux2Transformer2DModel": Family(JOINT, (_BLOCKS, _SINGLE), place=by_ids),
    "ChromaTransformer2DModel": Family(JOINT, (_BLOCKS, _SINGLE), mask_at=2),
    "SD3Transformer2DModel": Family(
        JOINT, (_JOINT,), tokens=_patches, image_first=True
    ),
    "QwenImageTransformer2DModel": Family(
        JOINT, (_JOINT,), mask_at=1, crops=True, positioned=True, place=by_shapes
    ),
    "QwenImage21Transformer2DModel": Family(
        JOINT, (("transformer_blocks.", ".attn", "single"),), mask_at=1, crops=True, prefix=True
    ),
    "ZImageTransformer2DModel": Family(
        JOINT, (("layers.", ".attention", "joint"),), text="cap_feats", lays_out="patchify_and_embed",
        refiner=("context_refiner.", ".attention"),
    ),
}  # fmt: skip


def family_of(model: nn.Module) -> Family:
    """The family by any base class's name; `UnsupportedHost` for every other model."""
    names = (kind.__name__ for kind in type(model).__mro__)
    family = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if family is None:
        raise UnsupportedHost(f"the model ({type(model).__name__}) has no attention over text that NAG knows")
    return family


def compiled_or_not(pipe: Any) -> list[nn.Module]:
    """The pipeline's denoisers as they stand there."""
    found = [getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2")]
    return [model for model in found if isinstance(model, nn.Module)]


def models_of(pipe: Any) -> list[nn.Module]:
    """The pipeline's denoisers as they were written, compiled or not."""
    return [original(model) for model in compiled_or_not(pipe)]


def preset_of(pipe: Any) -> str:
    """The name by which presets know the pipeline's model; empty for one that NAG does not know."""
    models = models_of(pipe)
    try:
        return family_of(models[0]).preset(models[0]) if models else ""
    except UnsupportedHost:
        return ""
