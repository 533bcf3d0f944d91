"""One model call under joint NAG: the negative's tokens join the context, the host's attention is replaced.

Both last exactly as long as the call. The model's forward stays the host's own, so quantised weights, LoRA
and offload need nothing; what the host drops at the end with its text tokens includes ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.patcher.networks import TEXT_ONLY, UNTOUCHED, JointModel, image_tokens, replaced
from nag_core.hosts.patcher.provenance import marks_of
from nag_core.hosts.patcher.wrapper import ApplyModel, reason, wrapped
from nag_core.method.joint import JointCall, NotGuided, Plain
from nag_core.method.layout import Layout, padded, slot_width, with_negative
from nag_core.method.rows import Arrangement, Batch
from nag_core.method.texts import text_attention
from nag_core.passes.guiding import joined, joint_call, rows_of
from nag_core.passes.session import Session


def patch_model_call(model_options: dict, model: JointModel, session: Session, batch: Batch) -> dict:
    """A copy of `model_options` whose model calls run under NAG; the original is not touched."""

    def run(apply: ApplyModel, x: Tensor, timestep: Tensor, c: dict[str, Any]) -> Tensor:
        """The model's answer (shape of `x`), guided; without NAG, and noted, where that cannot be."""
        try:
            call = _prepared(x, c, model, session, batch)
        except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
            call = session.off(reason(error), error)
        if call is not None:
            try:
                with call.in_place():
                    out = apply(x, timestep, **call.arguments)
                joined(session, call.joint)
                return out
            except NotGuided as error:
                session.off(reason(error), error.__cause__ or error)
            except torch.cuda.OutOfMemoryError as error:
                session.off("out of memory with the negative's tokens", error)
        # Outside the except clauses, whose tracebacks hold the failed call's tensors; so do these two.
        call = out = None
        return apply(x, timestep, **c)

    return wrapped(model_options, run)


def _prepared(
    x: Tensor, c: dict[str, Any], model: JointModel, session: Session, batch: Batch
) -> _Call | None:
    """The call to make for these rows; None where it has nobody to guide."""
    if session.stopped or session.closed:
        return None
    marks = marks_of(c.get("transformer_options"))
    if marks is None:
        return session.off("another extension's wrapper around the model call drops its transformer_options")
    rows = rows_of(session, batch, x.shape[0], marks, x.device)
    if rows is None:
        return None
    texts = c["c_crossattn"]
    flat = texts[:, 0] if texts.dim() == 4 else texts  # Neo's Krea has (B, 1, T, C)
    layout, size = _layout(x, flat, rows, model, c), tuple(x.shape[-2:])
    joint = joint_call(session, rows, layout, x.device, size, batch.tiled, image_tokens(x, model.patch))
    if joint is None:
        return None
    context = with_negative(flat, rows, slot_width(rows), session.cache, model.image_first)
    context = context[:, None] if texts.dim() == 4 else context
    arguments = {**c, **_spare(c), "c_crossattn": context}
    return _Call(joint, model, arguments, model.namespace[model.attribute])


def _spare(c: dict[str, Any]) -> dict[str, Any]:
    """Copies of what models empty while they run (ControlNet's lists), in case the call must be repeated."""

    def copied(value: Any) -> Any:
        return list(value) if isinstance(value, list) else value

    control = c.get("control")
    if isinstance(control, dict):
        return {"control": {key: copied(value) for key, value in control.items()}}
    return {"control": copied(control)} if "control" in c else {}


def _layout(x: Tensor, context: Tensor, rows: Arrangement, model: JointModel, c: dict[str, Any]) -> Layout:
    pos, own = (padded(tokens, model.pad) for tokens in (context.shape[1], image_tokens(x, model.patch)))
    before, behind = model.references(x, c) if model.references else (0, 0)
    neg, image = slot_width(rows, model.pad), before + own + behind
    return Layout(neg, pos, image, model.image_first, model.pad, before, behind)


@dataclass(slots=True)
class _Call:
    """The replaced attention of one of Forge's model calls."""

    joint: JointCall
    model: JointModel
    arguments: dict[str, Any]
    original: Any  # the host's function
    within: list[str] = field(
        default_factory=list
    )  # roles of the running modules whose attention is no joint one

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The host's attention is ours, and the blocks that run are noted, inside."""

        def entering(name: tuple[str, int]) -> Callable[..., None]:
            return lambda *_: self.joint.entered.append(name)

        with ExitStack() as stack:
            for name, module in self.model.named_blocks():
                first = getattr(module, self.model.begins, module)
                stack.callback(first.register_forward_pre_hook(entering(name)).remove)
            for role, module in self.model.others:
                self._note_role(stack, role, module)
            if self.model.adapt is not None:
                stack.enter_context(self.model.adapt(self.joint.layout, self.joint.rows))
            stack.enter_context(replaced(self.model.namespace, self.model.attribute, self.attention))
            yield

    def _note_role(self, stack: ExitStack, role: str, module: nn.Module) -> None:
        """`within` ends with `role` while `module` runs, also when it fails."""
        stack.callback(module.register_forward_pre_hook(lambda *_: self.within.append(role)).remove)

        def leaving(*_: Any) -> None:
            self.within.pop()

        stack.callback(module.register_forward_hook(leaving, always_call=True).remove)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        """In the host's place. A joint call is known by its exact length, never by being longer than the
        text: SD3.5-Medium's attention among image tokens alone is that, too.
        """
        tokens = q.shape[2] if self.model.heads_split else q.shape[1]
        role = self.within[-1] if self.within else ""
        if role == UNTOUCHED or (not role and tokens == self.joint.layout.image):
            return self.original(q, k, v, heads, *args, **kwargs)
        try:
            expected = self.joint.layout.total - (self.joint.layout.image if role == TEXT_ONLY else 0)
            if tokens != expected:
                raise NotGuided(f"an attention over {tokens} tokens, expected {expected}")
            attend = self._text if role == TEXT_ONLY else self._joint
            return attend(q, k, v, heads, *args, **kwargs)
        except NotGuided:
            raise
        except Exception as error:  # ours; the host's own errors pass outside of this function
            message = str(error).partition("\n")[0][:120]
            raise NotGuided(f"{type(error).__name__} in the joint attention: {message}") from error

    def _joint(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        name = getattr(self.original, "__name__", "attention")
        exact = self.model.is_sdpa(self.original)
        tensors = self._split(q, k, v, heads)
        return self.joint.attention(*tensors, self._plain(options), exact, name, mask)

    def _split(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, ...]:
        """(B, H, N, D) each."""
        if self.model.heads_split:
            return q, k, v
        # Not unflatten: mmditx.py normalises and flattens q and k, but leaves v's heads split.
        return tuple(x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))

    def _text(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        if mask is not None:
            raise NotGuided("the text's tokens are masked among themselves")
        tensors = self._split(q, k, v, heads)
        return text_attention(*tensors, self.joint.layout, self.joint.rows, self._plain(options))

    def _plain(self, options: dict[str, Any]) -> Plain:
        """The host's function with the options it was called with, for heads split as `joint_attention` has
        them.
        """
        if self.model.heads_split:
            return lambda q, k, v, mask: self.original(q, k, v, q.shape[1], mask=mask, **options)

        def merged_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            tensors = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
            return self.original(*tensors, q.shape[1], mask=mask, **options)

        return merged_heads
