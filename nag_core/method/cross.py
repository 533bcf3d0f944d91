"""The guided cross-attention: one path for every host (eq. 5, 7-10 of arXiv 2505.21179). Torch only.

The queries are shared by both prompts. Only the negative's keys and values are extra, and they are constant
over the steps of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from torch import Tensor

from nag_core.method.focus import Focus
from nag_core.method.lse import log_sum_exp, together
from nag_core.method.masks import of_rows
from nag_core.method.merge import Part
from nag_core.method.negative import Entry, KeyValueCache
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule

# The host's attention: q, k, v in its own shapes and the text that the keys are of, to (rows, tokens,
# channels).
Attend = Callable[[Tensor, Tensor, Tensor, Entry], Tensor]
# A text (1, tokens, channels) to the layer's keys and values, as the host's attention takes them.
Project = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One cross-attention of a model call, as a host hands it in."""

    key: Hashable  # names the layer in counts and caches
    q: Tensor  # the queries of all rows of the call
    attend: Attend
    project: Project
    weights: Hashable  # identity of the (LoRA-)patched weights: kept keys of other ones are dropped
    token_dim: int = 1  # of q, k and v
    path: str = ""  # how `attend` works, for the report, where that differs from call to call
    whole: bool = False  # `attend` takes all rows and tokens of the call, in their order, or it is lost
    # For rules that ask for a log-sum-exp: q or k to (B, H, N, D), the prompt's keys, and their mask.
    heads: Callable[[Tensor], Tensor] | None = None
    k: Tensor | None = None
    mask: Tensor | None = None


def guide(
    pos: Tensor,
    layer: Layer,
    rows: Arrangement,
    cache: KeyValueCache,
    rule: Rule,
    focus: Focus,
    may_write: bool = True,
) -> Tensor:
    """`pos` with its conditional rows guided, group by group of negatives with the same layout.

    pos: z+ (rows, tokens, channels), the layer's attention output before the output projection. may_write:
        the guided rows are written over it; else over a copy.
    """
    negatives = [_negative(layer, group, cache, rule, focus) for group in rows.groups]
    out = pos if may_write else pos.clone()
    for group, neg in zip(rows.groups, negatives, strict=True):
        part = out[group.index]  # a view where the rows are consecutive
        focus.write(part, Part(part, _prompt_lse(layer, group, rule, focus)), neg, rule, group)
        if not isinstance(group.index, slice):
            out[group.index] = part
    return out


def _negative(layer: Layer, group: Group, cache: KeyValueCache, rule: Rule, focus: Focus) -> Part:
    """z- of the group's rows and the focus's tokens, of several negatives taken together."""
    spans = group.entries[0].spans
    entries = _spread(group, layer.q.shape[0]) if layer.whole else group.entries
    k, v = cache.get(layer.key, entries, layer.q, layer.weights, layer.project)
    q = layer.q if layer.whole else focus.queries(layer.q[group.index], layer.token_dim)

    def outputs() -> Iterator[Part]:
        for at, _ in spans:
            size = at.stop - at.start
            keys = [x.narrow(layer.token_dim, at.start, size) for x in (k, v)] if len(spans) > 1 else [k, v]
            out = layer.attend(q, *keys, entries[0])
            lse = None
            if rule.needs_lse:
                lse = log_sum_exp(layer.heads(q), layer.heads(keys[0]), repeats=entries[0].repeats)
            if layer.whole:
                out = focus.queries(out[group.index])
                lse = None if lse is None else focus.queries(lse[group.index], 2)
            yield Part(out, lse)

    return together(outputs(), [weight for _, weight in spans])


def _prompt_lse(layer: Layer, group: Group, rule: Rule, focus: Focus) -> Tensor | None:
    if not rule.needs_lse:
        return None
    q, mask = focus.queries(layer.q[group.index], layer.token_dim), of_rows(layer.mask, group.index)
    return log_sum_exp(layer.heads(q), layer.heads(layer.k[group.index]), mask)


def _spread(group: Group, total: int) -> tuple[Entry, ...]:
    """The group's entries at its places of `total` rows. Elsewhere the first one, whose result is dropped."""
    spread = [group.entries[0]] * total
    rows = range(total)[group.index] if isinstance(group.index, slice) else group.index.tolist()
    for row, entry in zip(rows, group.entries, strict=True):
        spread[row] = entry
    return tuple(spread)
