"""Forge Neo: Forge main's `backend` generation with the models of later years."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from nag_core.hosts.patcher.families import Family, class_row, globals_of, joint_model
from nag_core.hosts.patcher.forge import Forge
from nag_core.hosts.patcher.networks import BEHIND, EITHER, CrossModel, JointModel
from nag_core.hosts.patcher.references import argument, in_frames, in_sequence

_LOOKED_UP = {
    "attribute": "attention_function",
    "defined_in": "backend.attention",
    "exact": frozenset({"attention_pytorch", "attention_xformers", "attention_flash"}),
}
_FLUX = Family(
    (("double", "double_blocks"), ("single", "single_blocks")), "backend.nn.flux", heads_split=True,
    embedder="pe_embedder", references=BEHIND, **_LOOKED_UP,
)  # fmt: skip
# Text has positions in Flux.2 Klein (of Flux.1's class, where they are zero), Qwen, Z-Image, Lumina, Ernie.
_JOINT: Mapping[str, Family] = {
    "IntegratedFluxTransformer2DModel": _FLUX,
    "IntegratedChromaTransformer2DModel": _FLUX._replace(references=""),
    "QwenImageTransformer2DModel": Family(
        (("joint", "transformer_blocks"),), "backend.nn.qwen", heads_split=False, embedder="pe_embedder",
        references=BEHIND, **_LOOKED_UP,
    ),
    "NextDiT": Family(
        (("joint", "layers"),), "backend.nn.lumina", heads_split=True, embedder="rope_embedder", image_axis=0,
        pads="pad_tokens_multiple", pad_token="cap_pad_token", padded="cap_embedder",
        text_only=("context_refiner",), untouched=("noise_refiner",), **_LOOKED_UP,
    ),
    "SingleStreamDiT": Family(
        (("single", "blocks"),), "backend.nn.krea", heads_split=True, patch="patch", embedder="pe_embedder",
        text_only=("txtfusion.refiner_blocks",), untouched=("txtfusion.layerwise_blocks",),
        # With references that are handed to it, it runs its blocks' parts without their own forward. Newer
        # ones look them up.
        references=EITHER, begins="prenorm", **_LOOKED_UP,
    ),
    "ErnieImageModel": Family(
        (("single", "layers"),), "backend.nn.ernie", heads_split=False, embedder="pos_embed", image_axis=0,
        image_first=True, **_LOOKED_UP,
    ),
}  # fmt: skip


class _Crossing(NamedTuple):
    """One network with cross-attention: the module in whose globals the attention is looked up, the layers'
    projections of keys and values by name, and the network's own embedding of the text.
    """

    module: str
    heads_split: bool
    to_k: str
    norm_k: str
    to_v: str
    embed: str = ""


_CROSS = {
    "WanModel": _Crossing("backend.nn.wan", False, "k", "norm_k", "v", "text_embedding"),
    "Anima": _Crossing("backend.nn.anima", True, "k_proj", "k_norm", "v_proj"),
}


def probe() -> Neo | None:
    """The adapter where Forge's `backend` has models that Forge main lacks, else None."""
    try:
        found = [importlib.util.find_spec(f"backend.{name}") for name in ("attention", "nn.wan", "nn.lumina")]
    except (ImportError, ValueError):
        return None
    return Neo() if all(found) else None


class Neo(Forge):
    """As Forge main, with more families and with what Neo's own features need."""

    name = "Forge Neo"
    negative_hint = (
        "Empty: the main negative prompt. Same syntax: [from:to:0.5], BREAK, styles, and (weights:1.2) where "
        "the model reads them; the report says where not. Several negatives always have weights."
    )

    def joint_model(self, network: nn.Module) -> JointModel | None:
        return None if _nunchaku(network) else joint_model(network, _JOINT, in_sequence)

    def cross_model(self, network: nn.Module) -> CrossModel | None:
        family = class_row(network, _CROSS)
        namespace = globals_of(family.module) if family else {}
        layers = tuple(getattr(block, "cross_attn", None) for block in getattr(network, "blocks", ()))
        names = (family.to_k, family.norm_k, family.to_v) if family else ()
        if not layers or not all(hasattr(layer, name) for layer in layers for name in names):
            return None
        if "attention_function" not in namespace or not hasattr(network, family.embed or "forward"):
            return None
        embed = getattr(network, family.embed) if family.embed else (lambda context: context)
        return CrossModel(
            layers, _text_call, embed, partial(_projected, family), namespace, "attention_function",
            family.heads_split, partial(in_frames, network),
        )  # fmt: skip

    def samples_one(self, sd_model: Any) -> bool:
        # The batch size is the number of frames then (Neo's modules/processing.py).
        arguments = globals_of("backend.args").get("dynamic_args")
        return bool(getattr(sd_model, "is_wan", False) and argument(arguments, "wan"))

    def weights(self, model: Any) -> Hashable:
        # `Reload "state_dict" Only` of Neo's refiner (Wan 2.2's two experts) copies other weights into the
        # same tensors within a pass; modules/sd_samplers_common.py remembers which file was there before.
        first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
        switched = globals_of("modules.sd_samplers_common").get("ORIGINAL_CHECKPOINT")
        # Neo 2.26 has no LoRA loader as Forge main: its patcher notes whose patches are in the weights.
        patches = str(getattr(model, "current_weight_patches_uuid", None))
        return super().weights(model), patches, _tensor_identity(first), switched

    def compiled(self, model: Any) -> bool:
        # Its graphs are cached without regard to what is in the transformer options: one made under NAG would
        # be used without it, and the other way round. The network is a compiled one within the call alone.
        plain = getattr(model, "__dict__", {}).get("_orig_apply_model")
        return super().compiled(model) or (plain is not None and plain != model.apply_model)

    def as_written(self, model: Any, apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # Its wrapper hands its options to torch.compile in each call, which takes the guards' filter out of
        # them: the first call to be compiled would have none after a guided one.
        plain = getattr(model, "__dict__", {}).get("_orig_apply_model")
        return apply if plain is None or getattr(apply, "__wrapped__", None) != plain else plain


def _tensor_identity(tensor: Tensor | None) -> Hashable:
    """Changes when the tensor is another one, or something was written into it."""
    if tensor is None:
        return None
    # Tensors of inference mode do not count what is written into them.
    return id(tensor), tensor.data_ptr(), None if tensor.is_inference() else tensor._version


def _nunchaku(network: nn.Module) -> bool:
    return any("Nunchaku" in kind.__name__ for kind in type(network).__mro__)


def _text_call(layer: nn.Module) -> int:
    """Wan I2V attends to an image first."""
    return 1 if hasattr(layer, "k_img") else 0


def _projected(family: _Crossing, layer: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """K and V of the embedded text, (1, T, C), or with the heads split (1, H, T, D)."""
    to_k, norm_k, to_v = (getattr(layer, name) for name in (family.to_k, family.norm_k, family.to_v))
    k, v = to_k(context), to_v(context)
    if not family.heads_split:
        return norm_k(k), v
    k, v = (x.unflatten(-1, (layer.n_heads, -1)) for x in (k, v))
    return norm_k(k).transpose(1, 2), v.transpose(1, 2)
