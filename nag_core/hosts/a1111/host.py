"""AUTOMATIC1111's WebUI: it has no UNet patcher, so torch hooks on its attention modules.

They are there for one denoiser call. The CFG denoiser, which is made anew for each pass, carries the session,
and a hook that takes everything off the network after each call, also after one that failed. So nothing
outlives the call but what dies with the pass.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.a1111.hooked import HookedCall
from nag_core.hosts.patcher.cross import CrossModel, Projections
from nag_core.hosts.patcher.joint_model import JointModel
from nag_core.hosts.patcher.unet import Call, cross_attention_layers
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.rows import Batch
from nag_core.passes.session import Session

_FOREIGN_SAMPLING = "another extension took the sampler's model call over; NAG cannot tell its rows apart"


def probe() -> A1111 | None:
    """The adapter where A1111's own CFG denoiser and attention optimisations are importable, else None."""
    try:
        names = ("sd_samplers_cfg_denoiser", "sd_hijack_optimizations", "sd_hijack_unet")
        found = [importlib.util.find_spec(f"modules.{name}") for name in names]
    except (ImportError, ValueError):
        return None
    return A1111() if all(found) else None


class _Installed:
    """What the denoiser of a pass carries: the session, the hook to take off, and what is on the network."""

    def __init__(self, session: Session, network: nn.Module, denoiser: nn.Module) -> None:
        self.session, self.network, self.stack = session, network, ExitStack()
        self.handle = denoiser.register_forward_hook(lambda *_: self.stack.close(), always_call=True)

    def remove(self) -> None:
        self.stack.close()
        self.handle.remove()


class A1111:
    """A1111 1.10: SD1.x, SD2.x, SDXL."""

    name = "A1111"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        """torch's: the host's optimisations are whole forwards with their projections, and cannot be called
        for keys that are there already.
        """
        heads = extra["n_heads"]
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if getattr(_options(), "upcast_attn", False):
            out = nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
        else:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)

    @property
    def attention_name(self) -> str:
        return "torch attention for the negative"

    def weights(self, model: Any) -> Hashable:
        return id(model)

    def joint_model(self, network: nn.Module) -> JointModel | None:
        """None: of the DiTs this host has only SD3, in code of its own."""

    def cross_model(self, network: nn.Module) -> CrossModel | None:
        """None: its UNets are reached by their modules."""

    def samples_one(self, sd_model: Any) -> bool:
        return False

    def network(self, sd_model: Any) -> nn.Module:
        network = getattr(getattr(sd_model, "model", None), "diffusion_model", None)
        if not isinstance(network, nn.Module):
            raise UnsupportedHost("the loaded model has no diffusion network to hook")
        return network

    def install(self, p: Any, sd_model: Any, session: Session) -> None:
        denoiser = p.sampler.model_wrap_cfg
        previous = getattr(denoiser, "nag_installed", None)
        if previous is not None:
            previous.remove()
        denoiser.nag_installed = _Installed(session, self.network(sd_model), denoiser)

    def installed(self, p: Any, sd_model: Any, session: Session) -> bool:
        current = getattr(p.sampler.model_wrap_cfg, "nag_installed", None)
        return (
            current is not None and current.session is session and current.network is self.network(sd_model)
        )

    def begin_call(self, p: Any, sd_model: Any, session: Session) -> None:
        denoiser = p.sampler.model_wrap_cfg
        current = denoiser.nag_installed
        current.stack.close()
        progress = session.begin_call()
        if progress is None:
            return
        parts = [len(parts) for parts in denoiser.sampler.sampler_extra_args["cond"].batch]
        entries = session.negative.at(progress.call)
        if len(entries) != len(parts):
            session.problem(f"{len(entries)} negatives for {len(parts)} images")
            return
        if not any(entries):
            return
        if "forward" in vars(denoiser.inner_model):
            session.stop(_FOREIGN_SAMPLING)
            return
        if getattr(sd_model, "cond_stage_key", "") == "edit":
            session.stop("models that edit a picture (InstructPix2Pix) have rows of a third kind")
            return
        session.armed += 1
        batch = session.batches.setdefault(entries, Batch(entries))
        rows = [image for image, count in enumerate(parts) for _ in range(count)]
        call = Call(session, batch, self.weights(current.network))
        hooked = HookedCall(call, [*rows, *[None] * len(parts)], _projections)
        hooked.enter(current.stack, current.network, cross_attention_layers(current.network))

    def after_encoding(self, sd_model: Any, x: Tensor) -> None:
        """Nothing to do: the host's low-memory modes move the network when it is called."""


def _projections(layer: nn.Module) -> Projections:
    """The layer's own, behind the loaded hypernetworks, as the host's attention has them."""

    def changed(context: Tensor, which: int) -> Tensor:
        from modules import shared
        from modules.hypernetworks import hypernetwork

        apply = asked.attribute(hypernetwork, "apply_hypernetworks")
        return asked.call(apply, shared.loaded_hypernetworks, context, layer)[which]

    return Projections(
        lambda context: layer.to_k(changed(context, 0)), lambda context: layer.to_v(changed(context, 1))
    )


def _options() -> Any:
    from modules import shared

    return shared.opts
