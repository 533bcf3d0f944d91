"""NAG on UNet cross-attention through the patchers' attn2 replace hook (SD1.x, SD2.x, SDXL).

The queries are shared; only the negative's keys and values are extra, and they are constant over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor, nn

from nag_core.attention.rows import Arrangement, Batch, Group
from nag_core.negative import Entry
from nag_core.session import Session

LayerKey = tuple[str, int, int]
Replace = Callable[[Tensor, Tensor, Tensor, dict], Tensor]


def cross_attention_layers(diffusion_model: nn.Module) -> dict[LayerKey, nn.Module]:
    """The attn2 modules of an LDM UNet by the hosts' patch key (block, number, index); empty for other
    networks.

    Enumerated, not hard-coded: SD1.5 has 16, SDXL 70, pruned SDXL variants fewer.
    """
    layers: dict[LayerKey, nn.Module] = {}
    for name in ("input", "middle", "output"):
        blocks = getattr(diffusion_model, f"{name}_block" if name == "middle" else f"{name}_blocks", None)
        if blocks is None:
            return {}
        for number, block in enumerate([blocks] if name == "middle" else blocks):
            for transformer in (m for m in block if hasattr(m, "transformer_blocks")):
                for index, inner in enumerate(transformer.transformer_blocks):
                    if getattr(inner, "attn2", None) is not None:
                        layers[(name, number, index)] = inner.attn2
    return layers


def replaced_forward(module: nn.Module) -> bool:
    """Whether someone put an own `forward` on this attention (NegPiP): an attn2 replace would switch that
    off.

    An object patch of the host leaves the class's own method behind as an instance attribute; that one is
    harmless.
    """
    forward = module.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


@dataclass(frozen=True, slots=True)
class Call:
    """What the attn2 closures of one denoiser call share. `weights`: the identity of the patched weights."""

    session: Session
    batch: Batch
    weights: Hashable


def patch_attn2(model_options: dict, layers: dict[LayerKey, nn.Module], call: Call) -> dict:
    """A copy of `model_options` in which every attn2 runs under NAG; the original is not touched.

    A replacer that is already there (IP-Adapter) is wrapped, under its three- or two-part key: called for z+
    and for z-, so that its own term cancels in z+ - z-. Closures only: the patchers deep-copy anything else.
    """
    options = model_options.copy()
    transformer_options = options["transformer_options"] = options.get("transformer_options", {}).copy()
    replaces = transformer_options["patches_replace"] = transformer_options.get("patches_replace", {}).copy()
    attn2 = replaces["attn2"] = dict(replaces.get("attn2", {}))
    for key, module in layers.items():
        theirs = attn2.get(key) or attn2.get(key[:2])
        if theirs is None and replaced_forward(module):
            call.session.problem(
                "another extension replaced the forward of some attention layers; those are unguided"
            )
            continue
        attn2[key] = _guided_attention(key, module, theirs, call)
    return options


def _guided_attention(key: LayerKey, module: nn.Module, theirs: Replace | None, call: Call) -> Replace:
    inner = theirs or call.session.attention

    def attn2(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        # The host changes `extra` from block to block and a replacer may change it too: z- needs it as it
        # was.
        options = dict(extra)
        pos = inner(q, k, v, extra)
        if call.session.closed:
            return pos
        try:
            return _guide_rows(pos, q, options, key, module, theirs, call)
        except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
            call.session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)
            return pos

    return attn2


def _guide_rows(
    pos: Tensor, q: Tensor, extra: dict, key: LayerKey, module: nn.Module, theirs: Replace | None, call: Call
) -> Tensor:
    """`pos` (rows, tokens, channels) with its conditional rows guided, group by group of equally long
    negatives.
    """
    arrangement = call.batch.arrangement(q.shape[0], extra["cond_or_uncond"], q.device)
    if arrangement is None:
        call.session.problem("a batch layout nobody knows; there the attention ran unguided")
        return pos
    # In place where it is the host attention's own; a replacer may have handed out a tensor it still uses.
    out = pos if theirs is None else pos.clone()
    guide_groups(out, q, extra, arrangement, key, module, call, theirs)
    return out


def guide_groups(
    out: Tensor,
    q: Tensor,
    extra: dict,
    arrangement: Arrangement,
    key: LayerKey,
    module: nn.Module,
    call: Call,
    theirs: Replace | None = None,
) -> None:
    """Guides the arrangement's rows of z+ in place. out: z+ (rows, tokens, channels), q its queries. module:
    has the `to_k`, `to_v` that make the negative's keys and values. theirs: a replacer that made z+.
    """
    session = call.session
    rule = session.rule(out.device)
    for group in arrangement.groups:
        neg = _negative_attention(q, extra, group, key, module, theirs, call)
        rows = out[group.index]
        rule.guide_in_place(rows, neg)
        if not isinstance(group.index, slice):
            out[group.index] = rows
        session.count(key, len(group.entries) * q.shape[1])


def _negative_attention(
    q: Tensor, extra: dict, group: Group, key: LayerKey, module: nn.Module, theirs: Replace | None, call: Call
) -> Tensor:
    """z- of the group's rows: their queries over the negative's keys, through what also made z+."""
    cache = call.session.cache
    if theirs is None:
        k, v = cache.get(key, module, group.entries, q, call.weights)
        return call.session.attention(q[group.index], k, v, extra)
    # A foreign replacer sees the rows in the arrangement it knows, all of them; the other rows' results are
    # dropped.
    k, v = cache.get(key, module, _spread(group, q.shape[0]), q, call.weights)
    return theirs(q, k, v, dict(extra))[group.index]


def _spread(group: Group, total: int) -> tuple[Entry, ...]:
    """The group's entries at its places of `total` rows, its first one everywhere else (any as long does)."""
    spread = [group.entries[0]] * total
    rows = range(total)[group.index] if isinstance(group.index, slice) else group.index.tolist()
    for row, entry in zip(rows, group.entries, strict=True):
        spread[row] = entry
    return tuple(spread)
