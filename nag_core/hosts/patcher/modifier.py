"""NAG on the UNet patcher: a conditioning modifier, which every Forge-like host calls once per denoiser call,
after all other extensions have patched the unet, with that call's conditions and options.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nag_core.hosts import asked
from nag_core.hosts.base import Host, no_attention, unet_patcher
from nag_core.hosts.patcher.cross import patch_cross_call
from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.hosts.patcher.reuse import KeyValueReuse, Provenance, patch_reuse, traced
from nag_core.hosts.patcher.texts import may_change
from nag_core.hosts.patcher.unet import Call, LayerKey, cross_attention_layers, patch_attn2
from nag_core.method.rows import Batch
from nag_core.passes.session import Progress, Session

logger = logging.getLogger("nag")


def install(sd_model: Any, host: Host, session: Session) -> None:
    """Clones the UNet patcher, adds the session's conditioning modifier, writes the clone back.

    Idempotent: a modifier of ours that is already on the patcher is replaced (Forge main runs the hook twice
        in the hires pass, processing.py:1510 and 1522). The host drops the clone before its next pass, so
        nothing is removed.
    """
    unet = asked.call(unet_patcher(sd_model).clone)
    others = [m for m in unet.model_options.get("conditioning_modifiers", []) if _session_of(m) is None]
    unet.model_options["conditioning_modifiers"] = others
    ours = _conditioning_modifier(host, session)
    asked.call(unet.add_conditioning_modifier, ours)
    if ours not in unet.model_options["conditioning_modifiers"]:
        # `installed` would not find it, and another one would be added in every call.
        raise asked.HostChanged("this version of the WebUI keeps conditioning modifiers elsewhere")
    _reserve_memory(unet, host, session)
    sd_model.forge_objects.unet = unet


def _reserve_memory(unet: Any, host: Host, session: Session) -> None:
    """Tells Forge's memory planning what the negative's tokens will take, so that it leaves room beside the
    weights.

    The estimate is rough: a joint block holds some 60 values of the hidden size per token, in 16 bits, and
    the partial attentions and their merge take about 192 MiB at 1024 x 1024.
    """
    joint = host.joint_model(unet.model.diffusion_model)
    if joint is None or not hasattr(unet, "add_extra_preserved_memory_during_sampling"):
        return
    last = getattr(getattr(unet.model.diffusion_model, "final_layer", None), "linear", None)
    width = int(getattr(last, "in_features", 0)) or 3072  # Flux's hidden size
    reserve = unet.add_extra_preserved_memory_during_sampling
    try:
        asked.call(reserve, 192 * 2**20 + session.negative.tokens * width * 120)
    except asked.HostChanged as reason:  # a picture that fits needs no reserve
        logger.debug("NAG: %s", reason)


def installed(sd_model: Any, session: Session) -> bool:
    """Whether the session's modifier is on the model's current patcher (the refiner loads another model)."""
    modifiers = unet_patcher(sd_model).model_options.get("conditioning_modifiers", [])
    return any(_session_of(modifier) is session for modifier in modifiers)


def _session_of(modifier: Any) -> Session | None:
    return getattr(modifier, "nag_session", None)


@dataclass(slots=True)
class _Unet:
    """The attention layers of the network last seen, and what is kept of them between calls."""

    network: nn.Module | None = None
    layers: dict[LayerKey, nn.Module] = field(default_factory=dict)
    reuse: KeyValueReuse = field(default_factory=KeyValueReuse)

    def of(self, network: nn.Module, session: Session) -> dict[LayerKey, nn.Module]:
        """The layers to guide; what is kept for later calls is that of all of them."""
        if network is not self.network:
            self.network, self.layers = network, cross_attention_layers(network)
            self.reuse.prepare(self.layers)
        if session.blocks is None:
            return self.layers
        return {key: layer for key, layer in self.layers.items() if key[:2] in session.blocks}


def _conditioning_modifier(host: Host, session: Session) -> Callable[..., tuple]:
    unet = _Unet()
    session.at_close.append(unet.reuse.clear)

    def modifier(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
        try:
            progress = session.begin_call()
            batch = progress and _batch(session, progress, x, model_options)
            obstacle = host.obstacle(model) if batch else ""
            session.armed += bool(batch)
            if obstacle:
                session.stop(obstacle)
            elif batch:
                given = (cond, uncond, model_options)
                cond, uncond, model_options = _guided(given, host, session, batch, unet, model, progress, x)
        except Exception as error:  # the picture goes on without NAG, and the report says why
            session.problem(f"could not be installed ({type(error).__name__}: {str(error)[:120]})", error)
        return model, x, timestep, uncond, cond, cond_scale, model_options, seed

    modifier.nag_session = session
    return modifier


def _batch(session: Session, progress: Progress, x: Tensor, options: dict) -> Batch | None:
    """The images of this denoiser call and their negatives; None where there is nobody to guide."""
    entries = session.negative.at(progress.call)
    if len(entries) != x.shape[0]:
        session.problem(f"{len(entries)} negatives for {x.shape[0]} images")
        return None
    patches = options.get("transformer_options", {}).get("patches", {})
    # Forge Couple's pair; ControlLLLite has the first one alone and leaves the rows as they are.
    regional = bool(patches.get("attn2_patch") and patches.get("attn2_output_patch"))
    if not any(entries):
        return None
    # Kept for the pass: an index tensor made anew in every step would stall a GPU.
    key = (entries, bool(options.get("tiled_diffusion")), regional)
    return session.batches.setdefault(key, Batch(*key))


def _guided(
    given: tuple,
    host: Host,
    session: Session,
    batch: Batch,
    unet: _Unet,
    model: Any,
    progress: Progress,
    x: Tensor,
) -> tuple:
    """Conditions and options of the call with NAG in them, by the mechanism that the network has."""
    cond, uncond, options = given
    network = model.diffusion_model
    weights = (id(network), host.weights(model))
    joint = host.joint_model(network)
    if joint is not None:
        return cond, uncond, patch_model_call(options, joint, session, batch)
    crossing = host.cross_model(network)
    if crossing is not None:
        return cond, uncond, patch_cross_call(options, crossing, session, batch, weights)
    call = Call(session, batch, weights, tuple(x.shape[-2:]))
    return _guided_unet(given, call, unet, model, progress)


def _guided_unet(given: tuple, call: Call, unet: _Unet, model: Any, progress: Progress) -> tuple:
    """The same by attn2 replaces."""
    cond, uncond, options = given
    session, network = call.session, model.diffusion_model
    layers = unet.of(network, session)
    if not unet.layers:
        session.problem(no_attention(network))
    if not layers:
        return given
    guided = patch_attn2(options, layers, call)
    if session.texts is None or may_change(options):
        return cond, uncond, guided
    try:
        prompt, negative = session.texts(progress.call)
        provenance = Provenance()
        cond = traced(cond, ("cond", prompt, call.weights), provenance)
        uncond = traced(uncond, ("uncond", negative, call.weights), provenance)
        return cond, uncond, patch_reuse(guided, network, unet.reuse, provenance)
    except Exception as error:  # only the speed is lost
        logger.debug("NAG: the prompt's keys and values cannot be reused here", exc_info=error)
        return given[0], given[1], guided
