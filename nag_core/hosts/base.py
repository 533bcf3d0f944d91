"""What NAG needs from a WebUI, and the part that every host with a UNet patcher does alike."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from torch import Tensor, nn

from nag_core.attention.cross import Call, cross_attention_layers, patch_attn2
from nag_core.attention.model_call import JointModel, patch_model_call
from nag_core.attention.rows import Batch
from nag_core.session import Progress, Session


class UnsupportedHost(RuntimeError):  # noqa: N818 - a reason to stand aside, not a fault
    """This WebUI, or its loaded model, offers nothing to hook; the message is one readable sentence."""


class Host(Protocol):
    """The differences between WebUI generations. `p` is the host's StableDiffusionProcessing throughout."""

    name: str

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        """The host's own attention, heads not split, so that the user's choice of backend is honoured."""

    @property
    def attention_name(self) -> str:
        """The backend behind `attention`, for the report."""

    def weights(self, model: Any) -> Hashable:
        """Changes whenever the patched weights (LoRA) of the model in the denoiser change."""

    def joint_model(self, network: nn.Module) -> JointModel | None:
        """How to reach the joint attention of a DiT; None for every other network."""

    def after_encoding(self, unet: Any, x: Tensor) -> None:
        """Called when a text was encoded in the middle of sampling: the UNet may have been moved off the
        device.
        """


def family(sd_model: Any) -> str:
    """The architecture as presets name it; "unknown" where the host does not say."""
    for flag, name in (("is_sdxl", "SDXL"), ("is_sd3", "SD3.5"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5")):
        if getattr(sd_model, flag, False):
            return name
    # Forge main flags no other family; its engine classes are named after them (backend/diffusion_engine).
    engine = type(sd_model).__name__
    return engine if engine in ("Flux", "Chroma") else "unknown"


def unet_patcher(sd_model: Any) -> Any:
    """The model's UNet patcher; `UnsupportedHost` where it or the conditioning modifier is missing."""
    unet = getattr(getattr(sd_model, "forge_objects", None), "unet", None)
    if unet is None or not hasattr(unet, "add_conditioning_modifier"):
        raise UnsupportedHost("this WebUI's UNet patcher has no conditioning modifier to hook")
    return unet


def check_model(sd_model: Any, host: Host) -> None:
    """`UnsupportedHost` for a model that has no attention to guide."""
    network = unet_patcher(sd_model).model.diffusion_model
    if not cross_attention_layers(network) and host.joint_model(network) is None:
        raise UnsupportedHost(_no_attention(network))


def _no_attention(network: nn.Module) -> str:
    return f"the loaded model ({type(network).__name__}) has no attention over text that NAG knows"


def sampler_progress(p: Any) -> Callable[[], Progress]:
    """Reads the pass's position from its CFG denoiser, which counts model calls: img2img strength, hires and
    two-call samplers come out right. Looked up at every call, since hosts make the sampler anew for each
    pass. Refers to `p` weakly: after an error the host keeps our clone, and through it this, for a while.
    """
    job = weakref.ref(p)

    def progress() -> Progress:
        denoiser = job().sampler.model_wrap_cfg
        return Progress(int(denoiser.step), int(denoiser.total_steps))

    return progress


def install(sd_model: Any, host: Host, session: Session) -> None:
    """Clones the UNet patcher, adds the session's conditioning modifier, writes the clone back.

    Idempotent: a modifier of ours that is already on the patcher is replaced (Forge main runs the hook twice
        in the hires pass, processing.py:1510 and 1522). The host drops the clone before its next pass, so
        nothing is removed.
    """
    unet = unet_patcher(sd_model).clone()
    others = [m for m in unet.model_options.get("conditioning_modifiers", []) if _session_of(m) is None]
    unet.model_options["conditioning_modifiers"] = others
    unet.add_conditioning_modifier(_conditioning_modifier(host, session))
    sd_model.forge_objects.unet = unet


def installed(sd_model: Any, session: Session) -> bool:
    """Whether the session's modifier is on the model's current patcher (the refiner loads another model)."""
    modifiers = unet_patcher(sd_model).model_options.get("conditioning_modifiers", [])
    return any(_session_of(modifier) is session for modifier in modifiers)


def _session_of(modifier: Any) -> Session | None:
    return getattr(modifier, "nag_session", None)


def _conditioning_modifier(host: Host, session: Session) -> Callable[..., tuple]:
    """Called once per denoiser call, after every other extension has patched the unet, with this step's
    options.
    """
    layers: dict[int, dict[tuple, nn.Module]] = {}

    def modifier(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
        try:
            batch = _begin_call(session, x, model_options)
            if batch is not None:
                model_options = _guided_options(host, session, layers, model, batch, model_options)
        except Exception as error:  # the picture goes on without NAG, and the report says why
            session.problem(f"could not be installed ({type(error).__name__}: {str(error)[:120]})", error)
        return model, x, timestep, uncond, cond, cond_scale, model_options, seed

    modifier.nag_session = session
    return modifier


def _begin_call(session: Session, x: Tensor, options: dict) -> Batch | None:
    """The images of this denoiser call and their negatives; None where NAG does not act on it."""
    progress = session.begin_call()
    if progress is None:
        return None
    entries = session.negative.at(progress.call)
    if len(entries) != x.shape[0]:
        session.problem(f"{len(entries)} negatives for {x.shape[0]} images")
        return None
    patches = options.get("transformer_options", {}).get("patches", {})
    # Forge Couple's pair; ControlLLLite has the first one alone and leaves the rows as they are.
    regional = bool(patches.get("attn2_patch") and patches.get("attn2_output_patch"))
    return Batch(entries, bool(options.get("tiled_diffusion")), regional) if any(entries) else None


def _guided_options(
    host: Host, session: Session, layers: dict, model: Any, batch: Batch, options: dict
) -> dict:
    """`options` with NAG in them, by the mechanism of the loaded network."""
    network = model.diffusion_model
    joint = host.joint_model(network)
    if joint is not None:
        return patch_model_call(options, joint, session, batch)
    if id(network) not in layers:
        layers.clear()
        layers[id(network)] = cross_attention_layers(network)
    if not layers[id(network)]:
        session.problem(_no_attention(network))
        return options
    weights = (id(network), host.weights(model))
    return patch_attn2(options, layers[id(network)], Call(session, batch, weights))
