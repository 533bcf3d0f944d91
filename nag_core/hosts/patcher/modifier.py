"""NAG on the UNet patcher: a conditioning modifier, which every Forge-like host calls once per denoiser call,
after all other extensions have patched the unet, with that call's conditions and options.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from nag_core.hosts import asked, foreign
from nag_core.hosts.base import Host
from nag_core.hosts.compiled import RUNS_UNCOMPILED, original, why_compiled_only
from nag_core.hosts.model import no_attention, unet_patcher
from nag_core.hosts.patcher.cross import patch_cross_call
from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.hosts.patcher.provenance import told_apart
from nag_core.hosts.patcher.step import Step
from nag_core.hosts.patcher.unet import Texts, Unet, guided_unet
from nag_core.hosts.patcher.wrapper import as_written
from nag_core.method.rows import Batch
from nag_core.passes.plan import Progress
from nag_core.passes.session import Session


def install(sd_model: Any, host: Host, session: Session, texts: Texts | None = None) -> None:
    """Clones the UNet patcher, adds the session's conditioning modifier, writes the clone back.

    texts: names of the texts at a step, None where nobody can tell them. Idempotent: a modifier of ours that
        is already on the patcher is replaced (Forge main runs the hook twice in the hires pass,
        processing.py:1510 and 1522). The host drops the clone before its next pass, so nothing is removed.
    """
    unet = asked.call(unet_patcher(sd_model).clone)
    others = [m for m in unet.model_options.get("conditioning_modifiers", []) if _session_of(m) is None]
    unet.model_options["conditioning_modifiers"] = others
    ours = _modifier(host, session, Unet(texts))
    asked.call(unet.add_conditioning_modifier, ours)
    if ours not in unet.model_options["conditioning_modifiers"]:
        # `installed` would not find it, and another one would be added in every call.
        raise asked.HostChanged("this version of the WebUI keeps conditioning modifiers elsewhere")
    host.reserve_memory(unet, session.negative.tokens)
    sd_model.forge_objects.unet = unet


def installed(sd_model: Any, session: Session) -> bool:
    """Whether the session's modifier is on the model's current patcher (the refiner loads another model)."""
    modifiers = unet_patcher(sd_model).model_options.get("conditioning_modifiers", [])
    return any(_session_of(modifier) is session for modifier in modifiers)


def _session_of(modifier: Any) -> Session | None:
    return getattr(modifier, "nag_session", None)


def _modifier(host: Host, session: Session, unet: Unet) -> Callable[..., tuple]:
    session.at_close.append(unet.clear)
    compiled: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # looked at once: it walks the model

    def modifier(model, x, timestep, uncond, cond, cond_scale, model_options, seed):
        given = (cond, uncond, model_options)
        try:
            progress = session.begin_call()
            network = original(model.diffusion_model)
            if progress and network not in compiled:
                compiled[network] = host.compiled(model)
            obstacle = why_compiled_only() if progress and compiled[network] else ""
            if obstacle:
                session.stop(obstacle)
            batch = progress and not obstacle and _batch(session, progress, x, model_options)
            if batch:
                step = Step(session, batch, (id(network), host.weights(model)), tuple(x.shape[-2:]))
                cond, uncond, model_options = _guided(given, host, step, unet, network, progress)
                if compiled[network]:
                    model_options = as_written(model_options, partial(host.as_written, model))
                    session.remark(RUNS_UNCOMPILED)
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
    return session.batch(entries, bool(options.get("tiled_diffusion")), regional)


def _guided(
    given: tuple, host: Host, step: Step, unet: Unet, network: nn.Module, progress: Progress
) -> tuple:
    """Conditions and options of the call with NAG in them, by the mechanism that the network has."""
    begins = step.session.armed == 1  # others install theirs before the sampling, and looking walks the model
    twice = foreign.doubled(given[2]) if begins else ""
    if twice:
        step.session.problem(twice, partly=False)
    joint, crossing = host.joint_model(network), host.cross_model(network)
    if joint is not None:
        # Such a forward finds the prompt's tokens by their number, and the negative's would come before them.
        theirs = foreign.replaced_within(module for _, module in joint.blocks) if begins else None
        if theirs is not None:
            step.session.beside = True
            step.session.stop(foreign.replaced_by(theirs))
            return given
    cond, uncond, options, provenance = told_apart(given)
    if joint is not None:
        options = patch_model_call(options, joint, step.session, step.batch)
    elif crossing is not None:
        options = patch_cross_call(options, crossing, step)
    elif unet.of(network):
        options = guided_unet(options, provenance, step, unet, progress)
    else:
        step.session.problem(no_attention(network))
    return cond, uncond, options
