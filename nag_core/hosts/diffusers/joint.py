"""A model call under NAG in joint attention: Flux, Flux.2, Chroma, SD3, Qwen-Image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.processors import Attention
from nag_core.method.joint import JointCall, NotGuided
from nag_core.method.layout import Layout, slot_width, with_negative
from nag_core.method.texts import text_attention
from nag_core.passes.guiding import joined, joint_call, rows_of
from nag_core.passes.session import Session


@dataclass(slots=True)
class WidenedCall:
    """The call of `network`, with the negative's tokens."""

    network: Hooked
    session: Session
    joint: JointCall | None  # None where it is not known yet
    broken: str = ""  # why it must be made again without NAG
    within: list[nn.Module] = field(default_factory=list)  # the attention modules at work

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        context = given["encoder_hidden_states"]
        changed = {"encoder_hidden_states": self._widened(context)}
        for name, widen in _WIDENED.items():
            if given.get(name) is not None:
                changed[name] = widen(self, given[name])
        return {**given, **changed}

    def _widened(self, context: Tensor) -> Tensor:
        family = self.network.family
        layout, cache = self.joint.layout, self.session.cache
        return with_negative(context, self.joint.rows, layout.neg, cache, family.image_first)

    def positions(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations of the image's tokens and of the text's: all texts begin where the prompt did."""
        return image, torch.cat([text[:length] for length in (*self.negatives, self.joint.layout.pos)])

    @property
    def negatives(self) -> list[int]:
        """Tokens of the texts in the slot, where positions are the same for all rows."""
        lengths = [at.stop - at.start for at, _ in self.joint.rows.groups[0].entries[0].spans]
        # Of several groups the longest; several negatives are the same in all rows.
        return lengths if len(lengths) > 1 else [self.joint.layout.neg]

    def entering(self, layer: tuple[str, int]) -> None:
        if self.joint is not None:
            self.joint.entered.append(layer)

    def around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        self.within.append(attn)
        try:
            return code(processor, attn, *args, **kwargs)
        finally:
            self.within.pop()

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """A joint call is known by its exact length on both sides: attentions over image prompts pass, as do
        those of other modules that share a processor.
        """
        if self.broken or self.joint is None or not self.within:
            return attention.plain(q, k, v, mask)
        layout, among_texts = self.joint.layout, self.within[-1] in self.network.among_texts
        expected = layout.total - (layout.image if among_texts else 0)
        tokens = q.shape[attention.token_dim], k.shape[attention.token_dim]
        if tokens != (expected, expected):
            if among_texts:
                self.broken = f"an attention among {tokens[0]} text tokens, expected {expected}"
            return attention.plain(q, k, v, mask)
        try:
            return self._guided(attention, q, k, v, self.seen(mask, among_texts), among_texts)
        except Exception as error:  # ours; the call is made again without NAG
            message = str(error).partition("\n")[0][:120]
            self.broken = f"{type(error).__name__} in the joint attention: {message}"
            return attention.plain(q, k, v, mask)

    def _guided(
        self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, among_texts: bool
    ) -> Tensor:
        def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return attention.merged(attention.plain(*(attention.swapped(x) for x in (q, k, v)), mask))

        swapped, joint = [attention.swapped(x) for x in (q, k, v)], self.joint
        if among_texts:
            out = text_attention(*swapped, joint.layout, joint.rows, plain, mask)
        else:
            out = joint.attention(*swapped, plain, attention.is_sdpa, attention.name, mask)
        return attention.split(out, swapped[0].shape[1])

    def seen(self, mask: Tensor | None, among_texts: bool) -> Tensor | None:
        """The model's mask of an attention, (B, 1 or H, 1 or N, N); some versions hand over (B, N)."""
        return mask if mask is None or mask.dim() != 2 else mask[:, None, None]

    def finish(self) -> str:
        if self.broken:
            return self.broken
        try:
            joined(self.session, self.joint)
        except NotGuided as reason:
            return str(reason)
        return ""


def _ids(call: WidenedCall, ids: Tensor) -> Tensor:
    """Positions of text tokens, (tokens, axes), or (B, tokens, axes): all zero (Flux, Chroma), or numbered
    along one axis (Flux.2), where each negative begins where the prompt did and goes on as that does.
    """
    first, second = ids[..., :1, :], ids[..., 1:2, :]
    step = second - first if ids.shape[-2] > 1 else torch.zeros_like(first)
    counted = [torch.arange(length, device=ids.device, dtype=ids.dtype) for length in call.negatives]
    return torch.cat([*(first + one[:, None] * step for one in counted), ids], dim=-2)


def _mask(call: WidenedCall, mask: Tensor) -> Tensor:
    """Chroma's (B, text + image): the negative's own in front; Qwen-Image's (B, text): all of it is real."""
    slot = mask.new_ones(mask.shape[0], call.joint.layout.neg)
    for group in call.joint.rows.groups:
        if group.entries[0].mask is not None:
            slot[group.index, : group.entries[0].tokens] = torch.stack(
                [entry.mask.to(mask) for entry in group.entries]
            )
    return torch.cat([slot, mask], dim=1)


def _lengths(call: WidenedCall, lengths: list[int]) -> list[int]:
    return [call.joint.layout.neg + call.joint.layout.pos] * len(lengths)


_WIDENED: dict[str, Callable[[WidenedCall, Any], Any]] = {
    "txt_ids": _ids,
    "attention_mask": _mask,
    "encoder_hidden_states_mask": _mask,
    "txt_seq_lens": _lengths,
}


def opened(network: Hooked, arrived: Arrived, given: dict[str, Any]) -> WidenedCall | None:
    """The call that is about to be made; None where no row of it is guided."""
    session, context, latent = arrived.session, given["encoder_hidden_states"], given["hidden_states"]
    rows = rows_of(session, arrived.batch, len(context), arrived.marks, context.device)
    if rows is None:
        return None
    family = network.family
    image = family.tokens(network.model, latent)
    key = id(network.model), latent.shape
    if key not in session.places:  # once in a pass, as reading it may wait for the device
        session.places[key] = family.place(network.model, given, image)
    layout = Layout(slot_width(rows), context.shape[1], image, family.image_first, 1, *session.places[key])
    return WidenedCall(network, session, joint_call(session, rows, layout, context.device))
