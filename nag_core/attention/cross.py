"""NAG on UNet cross-attention through the patchers' attn2 replace hook (SD1.x, SD2.x, SDXL).

The queries are shared; only the negative's keys and values are extra, and they are constant over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nag_core.attention.rows import Row, as_index, conditional_rows
from nag_core.guidance import guide
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


@dataclass(slots=True)
class Call:
    """What the attn2 closures of one denoiser call share: the negatives of this step and the batch's
    arrangement.
    """

    session: Session
    entries: tuple[Entry | None, ...]
    weights: Hashable
    tiled: bool
    regional: bool

    def rows(self, total: int, extra: dict[str, Any]) -> list[Row] | None:
        """The rows to guide. A regional layout keeps no image order to rely on, so it needs one common
        negative.
        """
        images = len(self.entries)
        regional = self.regional and len(set(self.entries)) == 1
        rows = conditional_rows(total, extra["cond_or_uncond"], images, self.tiled, regional)
        return rows and [row for row in rows if self.entries[row.image] is not None]


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
            call.session.problem(
                f"failed in a layer ({_summary(error)}); there the attention ran unguided", error
            )
            return pos

    return attn2


def _guide_rows(
    pos: Tensor, q: Tensor, extra: dict, key: LayerKey, module: nn.Module, theirs: Replace | None, call: Call
) -> Tensor:
    """`pos` (rows, tokens, channels) with its conditional rows guided, group by group of equally long
    negatives.
    """
    session = call.session
    rows = call.rows(q.shape[0], extra)
    if rows is None:
        session.problem("a batch layout nobody knows; there the attention ran unguided")
        return pos
    out = pos
    for group in _by_length(rows, call.entries):
        index = as_index([row.row for row in group])
        entries = tuple(call.entries[row.image] for row in group)
        neg = _negative_attention(q, extra, index, entries, key, module, theirs, call)
        strength = session.strength
        guided = guide(pos[index], neg, strength.phi, strength.tau, strength.alpha, session.method)
        session.count(key, len(group) * q.shape[1], guided.clipped)
        if len(group) == len(pos):
            return guided.out
        # Never in place: a replacer may have handed out a tensor it still uses.
        out = pos.clone() if out is pos else out
        out[index] = guided.out
    return out


def _by_length(rows: list[Row], entries: tuple[Entry | None, ...]) -> list[list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(entries[row.image].tokens, []).append(row)
    return list(groups.values())


def _negative_attention(
    q: Tensor, extra: dict, index: slice | list[int], entries: tuple[Entry, ...], key: LayerKey,
    module: nn.Module, theirs: Replace | None, call: Call,
) -> Tensor:  # fmt: skip
    """z- of the rows `index`: their queries over the negative's keys, through what also made z+."""
    if theirs is None:
        k, v = call.session.cache.get(key, module, entries, q, call.weights)
        return call.session.attention(q[index], k, v, extra)
    # A foreign replacer sees the rows in the arrangement it knows, all of them; the other rows' results are
    # dropped.
    entries = _spread(entries, index, q.shape[0])
    k, v = call.session.cache.get(key, module, entries, q, call.weights)
    return theirs(q, k, v, dict(extra))[index]


def _spread(entries: tuple[Entry, ...], index: slice | list[int], total: int) -> tuple[Entry, ...]:
    """`entries` at the places `index` of `total` rows, the first one everywhere else (any of the same length
    does).
    """
    spread = [entries[0]] * total
    places = range(total)[index] if isinstance(index, slice) else index
    for place, entry in zip(places, entries, strict=True):
        spread[place] = entry
    return tuple(spread)


def _summary(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
