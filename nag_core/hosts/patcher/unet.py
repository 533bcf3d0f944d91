"""NAG on cross-attention: the guided rows of one call, and the patchers' attn2 replace hook (SD1.x to SDXL).

The queries are shared; only the negative's keys and values are extra, and they are constant over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nag_core.method.focus import Focus
from nag_core.method.guidance import average
from nag_core.method.negative import Entry
from nag_core.method.rows import Arrangement, Batch, Group
from nag_core.passes.session import Session

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
    """What the attn2 closures of one denoiser call share. `weights`: the identity of the patched weights.
    `size`: height and width of the latent, None of a video.
    """

    session: Session
    batch: Batch
    weights: Hashable
    size: tuple[int, int] | None = (0, 0)


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
        if "n_heads" not in extra:  # another name in a later version: it must not cost the picture
            extra = options = {**extra, "n_heads": getattr(module, "heads", 1)}
        pos = inner(q, k, v, extra)

        def attend(group: Group, focus: Focus) -> Tensor:
            return negative_attention(q, options, group, key, module, theirs, call, focus)

        # A replacer may have handed out a tensor that it still uses.
        return guided_rows(pos, options.get("cond_or_uncond"), key, call, attend, may_write=theirs is None)

    return attn2


def guided_rows(
    pos: Tensor,
    marks: Sequence[int],
    key: Hashable,
    call: Call,
    attend: Callable[[Group, Focus], Tensor],
    may_write: bool = True,
) -> Tensor:
    """`pos` (rows, tokens, channels) with its conditional rows guided, group by group of equally long
    negatives; as it is where that fails.

    marks: the call's chunks, 0 cond, 1 uncond. attend(group, focus): z- of the group's rows and the focus's
        tokens. may_write: the guided rows are written over `pos`, in place; else over a copy.
    """
    session = call.session
    if session.closed:
        return pos
    try:
        return _guide_rows(pos, marks, key, call, attend, may_write)
    except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
        session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)
        return pos


def _guide_rows(
    pos: Tensor,
    marks: Sequence[int],
    key: Hashable,
    call: Call,
    attend: Callable[[Group, Focus], Tensor],
    may_write: bool,
) -> Tensor:
    session = call.session
    arrangement = call.batch.arrangement(pos.shape[0], marks, pos.device)
    if arrangement is None:
        session.problem("a batch layout nobody knows; there the attention ran unguided")
        return pos
    return guide_arranged(pos, arrangement, key, call, attend, may_write)


def guide_arranged(
    pos: Tensor,
    arrangement: Arrangement,
    key: Hashable,
    call: Call,
    attend: Callable[[Group, Focus], Tensor],
    may_write: bool,
) -> Tensor:
    """The same for rows whose arrangement is known already; raises what `attend` raises."""
    session = call.session
    focus = session.focus(pos.shape[1], call.size, pos.device, call.batch.tiled)
    if not focus.guided:
        return pos
    negatives = [attend(group, focus) for group in arrangement.groups]
    out = pos if may_write else pos.clone()
    rule = session.rule(pos.device)
    for group, neg in zip(arrangement.groups, negatives, strict=True):
        rows = out[group.index]
        focus.write(rows, neg, rule, group)
        if not isinstance(group.index, slice):
            out[group.index] = rows
        session.count(key, len(group.entries) * neg.shape[1])
    return out


def negative_attention(
    q: Tensor,
    extra: dict,
    group: Group,
    key: LayerKey,
    module: nn.Module,
    theirs: Replace | None,
    call: Call,
    focus: Focus,
) -> Tensor:
    """z- of the group's rows and the focus's tokens: their queries over the negative's keys, through what
    also made z+; of several negatives the mean.
    """
    spans = group.entries[0].spans
    weights = [weight for _, weight in spans]
    cache = call.session.cache
    if theirs is None:
        k, v = cache.get(key, module, group.entries, q, call.weights)
        queries = focus.queries(q[group.index])
        return average(
            (call.session.attention(queries, k[:, at], v[:, at], extra) for at, _ in spans), weights
        )
    # A foreign replacer sees the rows in the arrangement it knows, all of them and all of their tokens; the
    # others' results are dropped.
    k, v = cache.get(key, module, _spread(group, q.shape[0]), q, call.weights)
    outs = (theirs(q, k[:, at], v[:, at], dict(extra))[group.index] for at, _ in spans)
    return focus.queries(average(outs, weights))


def _spread(group: Group, total: int) -> tuple[Entry, ...]:
    """The group's entries at its places of `total` rows, its first one everywhere else (any as long does)."""
    spread = [group.entries[0]] * total
    rows = range(total)[group.index] if isinstance(group.index, slice) else group.index.tolist()
    for row, entry in zip(rows, group.entries, strict=True):
        spread[row] = entry
    return tuple(spread)
