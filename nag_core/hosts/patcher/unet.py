"""The patchers' attn2 replace hook: cross-attention of UNets, SD1.x to SDXL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from nag_core.hosts.foreign import replaced_forward
from nag_core.hosts.ldm_unet import LayerKey, cross_attention_layers, projected, split_heads
from nag_core.hosts.patcher.provenance import Provenance, marks_of
from nag_core.hosts.patcher.replaced import patch_replaced
from nag_core.hosts.patcher.reuse import KeyValueReuse, patch_reuse
from nag_core.hosts.patcher.step import Step
from nag_core.hosts.patcher.texts import may_change
from nag_core.hosts.replaced import left_alone
from nag_core.method.cross import Layer
from nag_core.method.negative import Entry
from nag_core.passes.guiding import guide, rows_of
from nag_core.passes.plan import Progress

logger = logging.getLogger("nag")

Replace = Callable[[Tensor, Tensor, Tensor, dict], Tensor]


Texts = Callable[[int], tuple[Hashable, Hashable]]


@dataclass(slots=True)
class Unet:
    """The network last seen, its attention to text, and what is kept of it between the calls of a pass."""

    texts: Texts | None = None  # names of prompt's and negative's texts at a step; None where nobody can tell
    network: nn.Module | None = None
    layers: dict[LayerKey, nn.Module] = field(default_factory=dict)
    reuse: KeyValueReuse = field(default_factory=KeyValueReuse)

    def of(self, network: nn.Module) -> dict[LayerKey, nn.Module]:
        """The network's layers, guided or not: their keys and values are all kept."""
        if network is not self.network:
            self.network, self.layers = network, cross_attention_layers(network)
            self.reuse.prepare(self.layers)
        return self.layers

    def clear(self) -> None:
        self.texts = None
        self.reuse.clear()


def guided_unet(options: dict, provenance: Provenance, step: Step, unet: Unet, progress: Progress) -> dict:
    """The options of a call with NAG in the chosen layers, and with the prompt's keys and values kept over
    the steps where nothing may have changed them.
    """
    layers = {key: layer for key, layer in unet.layers.items() if step.session.chosen(key[:2])}
    if not layers:
        return options
    forwards = _forwards(options, layers)
    others = left_alone(step.session, forwards)
    own = {key: layer for key, layer in layers.items() if forwards[key] is None}
    negpips = {key: layer for key, layer in layers.items() if forwards[key] and key not in others}
    texts = _texts(options, step, unet, progress) if len(own) == len(layers) else None
    options = patch_attn2(options, own, step)
    if negpips:
        return patch_replaced(options, negpips, step)
    return patch_reuse(options, unet.network, unet.reuse, provenance, texts) if texts else options


def _texts(options: dict, step: Step, unet: Unet, progress: Progress) -> tuple[Hashable, Hashable] | None:
    """Names of what the keys and values of prompt and uncond depend on; None where nothing may be reused."""
    if unet.texts is None or may_change(options):
        return None
    try:
        prompt, negative = unet.texts(progress.call)
    except Exception as error:  # only the speed is lost
        logger.debug("NAG: the prompt's keys and values cannot be reused here", exc_info=error)
        return None
    return (prompt, step.weights), (negative, step.weights)


def patch_attn2(model_options: dict, layers: dict[LayerKey, nn.Module], step: Step) -> dict:
    """A copy of `model_options` in which these attn2 run under NAG; the original is not touched.

    layers: none with a forward of somebody else, which a replace would switch off. A replacer that is already
    there (IP-Adapter) is wrapped, under its three- or two-part key: called for z+ and for z-, so that its own
    term cancels in z+ - z-. Closures only: the patchers deep-copy anything else.
    """
    options = model_options.copy()
    transformer_options = options["transformer_options"] = options.get("transformer_options", {}).copy()
    replaces = transformer_options["patches_replace"] = transformer_options.get("patches_replace", {}).copy()
    attn2 = replaces["attn2"] = dict(replaces.get("attn2", {}))
    for key, module in layers.items():
        theirs = attn2.get(key) or attn2.get(key[:2])
        attn2[key] = _guided_attention(key, module, theirs, step)
    return options


def _forwards(options: dict, layers: dict[LayerKey, nn.Module]) -> dict[LayerKey, Callable | None]:
    """The forwards of somebody else, None for every other layer: also where a replacer keeps them from
    running.
    """
    attn2 = options.get("transformer_options", {}).get("patches_replace", {}).get("attn2", {})
    return {
        key: None if attn2.get(key) or attn2.get(key[:2]) else replaced_forward(module)
        for key, module in layers.items()
    }


def _guided_attention(key: LayerKey, module: nn.Module, theirs: Replace | None, step: Step) -> Replace:
    session, batch = step.session, step.batch
    inner = theirs or session.plan.attention

    def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        # The host changes `extra` from block to block and a replacer may change it too: z- needs it as it
        # was.
        options = dict(extra)
        if "n_heads" not in extra:  # another name in a later version: it must not cost the picture
            extra = options = {**extra, "n_heads": getattr(module, "heads", 1)}
        pos = inner(q, k, v, extra)
        rows = rows_of(session, batch, len(pos), marks_of(options), pos.device, "attention")
        if rows is None:
            return pos

        def attend(q: Tensor, k: Tensor, v: Tensor, _: Entry) -> Tensor:
            return inner(q, k, v, dict(options))

        layer = Layer(
            key=key, q=q, attend=attend, project=partial(projected, module), weights=step.weights,
            whole=theirs is not None, k=k, heads=partial(split_heads, heads=options.get("n_heads", 1)),
        )  # fmt: skip
        # A replacer may have handed out a tensor that it still uses.
        return guide(session, pos, layer, rows, step.size, batch.tiled, may_write=theirs is None)

    return attn2
