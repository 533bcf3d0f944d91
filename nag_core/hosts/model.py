"""What model is loaded, and what of it can be guided."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from nag_core.hosts import asked
from nag_core.hosts.base import Host
from nag_core.hosts.diffusers.families import preset_of
from nag_core.hosts.ldm_unet import cross_attention_layers
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.passes.plan import Progress
from nag_core.settings import families
from nag_core.settings.blocks import Block


def family(sd_model: Any) -> str:
    """The architecture as presets name it; "unknown" where the host does not say."""
    # First: SD.Next's model is a diffusers pipeline, and calls itself SD1 whatever it is.
    pipeline = preset_of(sd_model)
    if pipeline:
        return pipeline
    for flag, name in (("is_sdxl", "SDXL"), ("is_sd3", "SD3.5"), ("is_sd2", "SD2"), ("is_sd1", "SD1.5")):
        if getattr(sd_model, flag, False):
            return name
    found = families.of_class(type(sd_model))
    return found.name if found else "unknown"


def loaded() -> Any | None:
    """The model that would draw now; None where none is loaded, or another one is chosen. Loads nothing:
    asking for `shared.sd_model` does, on some hosts.
    """
    from modules import sd_models

    data = asked.attribute(sd_models, "model_data")
    # Forge loads what is chosen when a job begins.
    chosen = getattr(data, "forge_loading_parameters", None)
    if chosen is not None and str(chosen) != getattr(data, "forge_hash", None):
        return None
    return data.sd_model


def checkpoint(sd_model: Any) -> str:
    """The name of the file that the model is from; empty where the host does not say."""
    return str(getattr(getattr(sd_model, "sd_checkpoint_info", None), "name", ""))


def mechanism(sd_model: Any, host: Host) -> str:
    """ "joint" for a model whose text and image attend to each other in one sequence, else "cross"."""
    try:
        return families.JOINT if host.joint_model(host.network(sd_model)) else families.CROSS
    except UnsupportedHost:
        return families.CROSS


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
