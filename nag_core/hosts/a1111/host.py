"""AUTOMATIC1111's WebUI: it has no UNet patcher, so torch hooks on its attention modules.

They are there for one denoiser call. The CFG denoiser, which is made anew for each pass, carries the session,
and a hook that takes everything off the network after each call, also after one that failed. So nothing
outlives the call but what dies with the pass.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Hashable
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.a1111.hooked import HookedCall, Step
from nag_core.hosts.base import Host
from nag_core.hosts.compiled import RUNS_UNCOMPILED, is_compiled, uncompiled, why_compiled_only
from nag_core.hosts.ldm_unet import split_heads
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.method.autocast import without_autocast
from nag_core.method.rows import Batch
from nag_core.passes.session import Session

_FOREIGN_SAMPLING = "another extension took the sampler's model call over; NAG cannot tell its rows apart"
# What identifies a merged network: network_apply_weights in extensions-builtin/Lora/networks.py.
_OF_A_LORA = ("name", "te_multiplier", "unet_multiplier", "dyn_dim")


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
        self.session, self.stack = session, ExitStack()
        self.network: nn.Module | None = network
        self.handle = denoiser.register_forward_hook(lambda *_: self.stack.close(), always_call=True)

    @cached_property
    def compiled(self) -> bool:
        """Compiled code does not see hooks, or keeps those it was made with. Looked at once: it walks the
        model.
        """
        return is_compiled(self.network)

    def remove(self) -> None:
        self.stack.close()
        self.handle.remove()
        self.network = None  # the session may go on with a refiner, and keeps this until it is closed


class A1111(Host):
    """A1111 1.10: SD1.x, SD2.x, SDXL."""

    name = "A1111"

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        """torch's: the host's optimisations are whole forwards with their projections, and cannot be called
        for keys that are there already.
        """
        q, k, v = (split_heads(x, extra["n_heads"]) for x in (q, k, v))
        if getattr(_options(), "upcast_attn", False):
            with without_autocast(q):
                wide = q.float(), k.float(), v.float()
                out = nn.functional.scaled_dot_product_attention(*wide).to(q.dtype)
        else:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2)

    @property
    def attention_name(self) -> str:
        return "torch attention for the negative"

    def weights(self, model: Any) -> Hashable:
        # The host's LoRA extension merges its networks anew, in the layer's forward, whenever one of these
        # has changed; others change them from step to step (loractl). Its module has no package.
        loaded = getattr(sys.modules.get("networks"), "loaded_networks", None) or ()
        return id(model), tuple(tuple(getattr(one, name, None) for name in _OF_A_LORA) for one in loaded)

    def network(self, sd_model: Any) -> nn.Module:
        network = getattr(getattr(sd_model, "model", None), "diffusion_model", None)
        if not isinstance(network, nn.Module):
            raise UnsupportedHost("the loaded model has no diffusion network to hook")
        return network

    def install(self, p: Any, sd_model: Any, session: Session, schedules: tuple | None = None) -> None:
        denoiser = p.sampler.model_wrap_cfg
        previous = getattr(denoiser, "nag_installed", None)
        if previous is not None:
            previous.remove()
        denoiser.nag_installed = _Installed(session, self.network(sd_model), denoiser)
        session.at_close.append(denoiser.nag_installed.remove)  # after an interrupt in the middle of a call

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
        if "forward" in vars(denoiser.inner_model):
            session.stop(_FOREIGN_SAMPLING)
        elif getattr(sd_model, "cond_stage_key", "") == "edit":
            session.stop("models that edit a picture (InstructPix2Pix) have rows of a third kind")
        elif current.compiled and (obstacle := why_compiled_only()):
            session.stop(obstacle)
        else:
            self._hook(current, session.batch(entries), parts)

    def _hook(self, current: _Installed, batch: Batch | None, parts: list[int]) -> None:
        """parts: how many prompts (AND) each image has; their rows come first, then the uncond's."""
        if batch is None:
            return
        rows = [image for image, count in enumerate(parts) for _ in range(count)]
        step = Step(current.session, batch, self.weights(current.network))
        call = HookedCall(step, [*rows, *[None] * len(parts)], _projected)
        if current.compiled:
            current.stack.enter_context(uncompiled())
            current.session.remark(RUNS_UNCOMPILED)
        call.enter(current.stack, current.network)


def _projected(layer: nn.Module, context: Tensor) -> tuple[Tensor, Tensor]:
    """By the layer's own projections, behind the loaded hypernetworks, as the host's attention has them."""
    from modules import shared
    from modules.hypernetworks import hypernetwork

    apply = asked.attribute(hypernetwork, "apply_hypernetworks")
    for_k, for_v = asked.call(apply, shared.loaded_hypernetworks, context, layer)
    return layer.to_k(for_k), layer.to_v(for_v)


def _options() -> Any:
    from modules import shared

    return shared.opts
