"""One model call under joint NAG: the negative's tokens join the context, the host's attention is replaced.

Both last exactly as long as the call. The model's forward stays the host's own, so quantised weights, LoRA
and offload need nothing; what the host drops at the end with its text tokens includes ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nag_core.attention.joint import Layout, Plain, joint_attention
from nag_core.attention.rows import Arrangement, Batch
from nag_core.kernels import Rule
from nag_core.merge import lse_kernel
from nag_core.negative import Entry
from nag_core.session import Session

logger = logging.getLogger("nag")

ApplyModel = Callable[..., Tensor]


class NotGuided(RuntimeError):  # noqa: N818 - a reason to repeat the call without NAG, not a fault of the host
    """The model call was not what NAG expects; it must be made again without it."""


@dataclass(frozen=True, slots=True)
class JointModel:
    """What a host's joint-attention model looks like from outside.

    blocks: (kind, count) in the order they run. patch: latent pixels per image token and side.
    namespace, attribute: the host module's globals, and the attention function its blocks look up there.
    heads_split: that function takes (q, k, v, heads, skip_reshape=True) with q (B, H, N, D), already rotated;
        else
        (q, k, v, heads, mask) with q (B, N, H*D).
    sdpa: the names under which that function is torch's own attention (or as exact): only then its work may
        go to a
        kernel that returns a log-sum-exp. Any other backend is the user's choice and is kept.
    """

    blocks: tuple[tuple[str, int], ...]
    patch: int
    namespace: dict[str, Any]
    attribute: str
    heads_split: bool
    sdpa: frozenset[str]

    @property
    def block_names(self) -> list[tuple[str, int]]:
        return [(kind, number) for kind, count in self.blocks for number in range(count)]


@contextmanager
def replaced(namespace: dict[str, Any], attribute: str, value: Any) -> Iterator[None]:
    """`namespace[attribute]` is `value` inside, and what it was afterwards, whatever happens inside."""
    original = namespace[attribute]
    namespace[attribute] = value
    try:
        yield
    finally:
        namespace[attribute] = original


def patch_model_call(model_options: dict, model: JointModel, session: Session, batch: Batch) -> dict:
    """A copy of `model_options` whose model calls run under NAG; the original is not touched.

    A wrapper that is already there (MultiDiffusion) is called as before, around ours: it sees the plain call.
    A
    closure only: the patchers deep-copy anything else.
    """
    theirs = model_options.get("model_function_wrapper")

    def wrapper(apply: ApplyModel, arguments: dict) -> Tensor:
        def guided(x: Tensor, timestep: Tensor, **c: Any) -> Tensor:
            return _guided_call(apply, x, timestep, c, model, session, batch)

        if theirs is not None:
            return theirs(guided, arguments)
        return guided(arguments["input"], arguments["timestep"], **arguments["c"])

    return {**model_options, "model_function_wrapper": wrapper}


def _guided_call(
    apply: ApplyModel,
    x: Tensor,
    timestep: Tensor,
    c: dict[str, Any],
    model: JointModel,
    session: Session,
    batch: Batch,
) -> Tensor:
    """The model's answer (shape of `x`), guided; without NAG, and noted, where that cannot be."""
    try:
        call = _prepared(x, c, model, session, batch)
    except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
        message = f"{type(error).__name__}: {str(error)[:120]}"
        call = session.stop(f"off from step {session.calls} on: {message}", error)
    if call is not None:
        try:
            with replaced(model.namespace, model.attribute, call.attention):
                out = apply(x, timestep, **{**c, **_spare(c), "c_crossattn": call.context})
            call.finish(c["transformer_options"].get("skip_layers", ()))
            return out
        except NotGuided as reason:
            session.stop(f"off from step {session.calls} on: {reason}", reason.__cause__ or reason)
        except torch.cuda.OutOfMemoryError as error:
            session.stop(f"off from step {session.calls} on: out of memory with the negative's tokens", error)
    # Not inside the except clauses: their tracebacks would keep the failed call's tensors alive.
    return apply(x, timestep, **c)


def _prepared(
    x: Tensor, c: dict[str, Any], model: JointModel, session: Session, batch: Batch
) -> _Call | None:
    """The call to make for these rows; None where it has nobody to guide."""
    if session.stopped or session.closed:
        return None
    rows = batch.arrangement(x.shape[0], c["transformer_options"]["cond_or_uncond"], x.device)
    if rows is None:
        session.problem("a batch layout nobody knows; there the model ran unguided")
    if rows is None or not rows.groups:
        return None
    layout = _layout(x, c["c_crossattn"], rows, model.patch)
    context = _with_negative(c["c_crossattn"], rows, layout.neg, session)
    return _Call(model, session, rows, layout, context)


def _spare(c: dict[str, Any]) -> dict[str, Any]:
    """Copies of what models empty while they run (ControlNet's lists), in case the call must be repeated."""
    control = c.get("control")
    if isinstance(control, dict):
        return {"control": {key: list(value) for key, value in control.items()}}
    return {"control": list(control)} if isinstance(control, list) else {}


def _layout(x: Tensor, context: Tensor, rows: Arrangement, patch: int) -> Layout:
    height, width = (-(-size // patch) for size in x.shape[-2:])
    longest = max(group.entries[0].tokens for group in rows.groups)
    return Layout(longest, context.shape[1], height * width)


def _with_negative(context: Tensor, rows: Arrangement, width: int, session: Session) -> Tensor:
    """`context` (B, T, C) with the negatives in front, (B, width + T, C).

    A negative that is shorter is repeated to `width`, an unguided row gets the first negative: nobody attends
    to either. Real tokens and no zeros, so that weights quantised with a scale per tensor see usual values.
    """
    slot = context.new_empty(context.shape[0], width, context.shape[2])
    slot[:] = _filled(rows.groups[0].entries[0], width, context, session)
    for group in rows.groups:
        slot[group.index] = torch.stack([_filled(one, width, context, session) for one in group.entries])
    return torch.cat((slot, context), dim=1)


def _filled(entry: Entry, width: int, like: Tensor, session: Session) -> Tensor:
    tokens = session.cache.context(entry, like)[0]
    return tokens if len(tokens) == width else tokens[torch.arange(width, device=like.device) % len(tokens)]


@dataclass(slots=True)
class _Call:
    """The replaced attention of one model call, and what it has done. `context`: negatives in front."""

    model: JointModel
    session: Session
    rows: Arrangement
    layout: Layout
    context: Tensor
    original: Any = None
    rule: Rule | None = None
    guided: int = 0

    def __post_init__(self) -> None:
        self.original = self.model.namespace[self.model.attribute]
        # A counter of its own: a call that has to be made again must not have counted.
        device = self.context.device
        self.rule = self.session.rule(device, torch.zeros((), dtype=torch.int64, device=device))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        """In the host's place. A joint call is known by its exact length, never by being longer than the
        text: SD3.5-Medium's attention among image tokens alone is that, too.
        """
        tokens = q.shape[2] if self.model.heads_split else q.shape[1]
        if tokens == self.layout.image:
            return self.original(q, k, v, heads, *args, **kwargs)
        try:
            if tokens != self.layout.total:
                raise NotGuided(f"an attention over {tokens} tokens, expected {self.layout.total}")
            return self._joint(q, k, v, heads, *args, **kwargs)
        except NotGuided:
            raise
        except Exception as error:  # ours; the host's own errors pass outside of this function
            message = str(error).partition("\n")[0][:120]
            raise NotGuided(f"{type(error).__name__} in the joint attention: {message}") from error

    def _joint(self, q, k, v, heads, mask=None, **options: Any) -> Tensor:
        if not self.model.heads_split:
            # Not unflatten: mmditx.py normalises and flattens q and k, but leaves v's heads split.
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        name = getattr(self.original, "__name__", "attention")
        exact = name in self.model.sdpa and mask is None and self.layout.pos > 0
        kernel = lse_kernel(q) if exact else None
        out = joint_attention(q, k, v, self.layout, self.rows, self._plain(options), kernel, self.rule, mask)
        self.guided += 1
        self.session.attention_name = f"LSE merge ({kernel.name})" if kernel else f"two calls ({name})"
        return out

    def _plain(self, options: dict[str, Any]) -> Plain:
        """The host's function, with the options it was called with, for heads split as `joint_attention` has
        them.
        """
        if self.model.heads_split:
            return lambda q, k, v, mask: self.original(q, k, v, q.shape[1], mask=mask, **options)

        def merged_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            tensors = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
            return self.original(*tensors, q.shape[1], mask=mask, **options)

        return merged_heads

    def finish(self, skipped: Any) -> None:
        """Hands the counts to the session, if every block went through `attention` once.

        Otherwise some block saw the negative as a part of the prompt: that answer is worthless.
        """
        names = [name for i, name in enumerate(self.model.block_names) if i not in skipped]
        if self.guided != len(names):
            raise NotGuided(f"{self.guided} joint attentions, expected {len(names)}; this WebUI changed")
        images = sum(len(group.entries) for group in self.rows.groups)
        for kind, number in names:
            self.session.count((kind, number), images * self.layout.image, kind)
        self.session.rule(self.rule.counter.device).counter.add_(self.rule.counter)
