"""What NAG needs from a WebUI, and the part that every host with a UNet patcher does alike."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.patcher.cross import CrossModel
from nag_core.hosts.patcher.joint_model import JointModel
from nag_core.hosts.patcher.unet import cross_attention_layers
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.passes.session import Progress, Session
from nag_core.settings.blocks import Block


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

    def cross_model(self, network: nn.Module) -> CrossModel | None:
        """How to reach the cross-attention of a DiT; None for every other network."""

    def network(self, sd_model: Any) -> nn.Module:
        """The diffusion network; `UnsupportedHost` where there is no way to it."""

    def samples_one(self, sd_model: Any) -> bool:
        """Whether the pass samples one latent however large the job's batch is (the frames of a video)."""

    def install(self, p: Any, sd_model: Any, session: Session) -> None:
        """Puts the session on the pass of `p` that is about to be sampled, or under way. Idempotent."""

    def installed(self, p: Any, sd_model: Any, session: Session) -> bool:
        """Whether the session is on the model that samples now (the refiner loads another one)."""

    def begin_call(self, p: Any, sd_model: Any, session: Session) -> None:
        """Called in every denoiser call, right before the network runs."""

    def after_encoding(self, sd_model: Any, x: Tensor) -> None:
        """Called when a text was encoded in the middle of sampling: the UNet may have been moved off the
        device.
        """


def family(sd_model: Any) -> str:
    """The architecture as presets name it; "unknown" where the host does not say."""
    from nag_core.hosts.diffusers.families import preset_of

    # First: SD.Next's model is a diffusers pipeline, and calls itself SD1 whatever it is.
    pipeline = preset_of(sd_model)
    if pipeline:
        return pipeline
    for flag, name in (("is_sdxl", "SDXL"), ("is_sd3", "SD3.5"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5")):
        if getattr(sd_model, flag, False):
            return name
    return _ENGINES.get(type(sd_model).__name__, "unknown")


# Forge main and Neo flag no other family; their engine classes (backend/diffusion_engine) are named after it.
_ENGINES = {
    "Flux": "Flux",
    "Chroma": "Chroma",
    "Flux2": "Flux.2",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
    "Lumina2": "Lumina 2",
    "Krea2": "Krea 2",
    "ErnieImage": "Ernie",
    "Wan": "Wan2.1",
    "Anima": "Anima",
}


def mechanism(sd_model: Any, host: Host) -> str:
    """ "joint" for a model whose text and image attend to each other in one sequence, else "cross"."""
    try:
        return "joint" if host.joint_model(host.network(sd_model)) else "cross"
    except UnsupportedHost:
        return "cross"


def unet_patcher(sd_model: Any) -> Any:
    """The model's UNet patcher; `UnsupportedHost` where it or the conditioning modifier is missing."""
    unet = getattr(getattr(sd_model, "forge_objects", None), "unet", None)
    if unet is None or not hasattr(unet, "add_conditioning_modifier"):
        raise asked.HostChanged("this WebUI's UNet patcher has no conditioning modifier to hook")
    return unet


def check_model(sd_model: Any, host: Host) -> None:
    """`UnsupportedHost` for a model that has no attention to guide."""
    network = host.network(sd_model)
    known = cross_attention_layers(network) or host.joint_model(network) or host.cross_model(network)
    if not known:
        raise UnsupportedHost(no_attention(network))


def blocks(sd_model: Any, host: Host) -> list[Block]:
    """The blocks of the loaded network that can be guided, in the order of their lists."""
    network = host.network(sd_model)
    joint, crossing = host.joint_model(network), host.cross_model(network)
    if joint:
        return [name for name, _ in joint.named_blocks()]
    if crossing:
        return [("cross", number) for number in range(len(crossing.layers))]
    return list(dict.fromkeys(name[:2] for name in cross_attention_layers(network)))


def no_attention(network: nn.Module) -> str:
    """Why NAG stands aside for a network that offers nothing to guide."""
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
