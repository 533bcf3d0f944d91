"""A model call under NAG in joint attention: Flux, Chroma, SD3, Qwen-Image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nag_core.hosts.diffusers.calls import Arrived, Hooked
from nag_core.hosts.diffusers.processors import Attention
from nag_core.method.joint import JointCall, NotGuided
from nag_core.method.layout import Layout, slot_width, with_negative
from nag_core.passes.guiding import joined, joint_call, rows_of
from nag_core.passes.session import Session


@dataclass(slots=True)
class WidenedCall:
    """The call of `network`, with the negative's tokens."""

    network: Hooked
    session: Session
    joint: JointCall
    broken: str = ""  # why it must be made again without NAG

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
        lengths = [at.stop - at.start for at, _ in self.joint.rows.groups[0].entries[0].spans]
        if len(lengths) == 1:  # of several groups the longest; several negatives are the same in all rows
            lengths = [self.joint.layout.neg]
        return image, torch.cat([text[:length] for length in (*lengths, self.joint.layout.pos)])

    def entering(self, layer: tuple[str, int]) -> None:
        self.joint.entered.append(layer)

    def around(
        self, code: Callable[..., Any], processor: Any, attn: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        return code(processor, attn, *args, **kwargs)

    def attend(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """A joint call is known by its exact length on both sides: SD3.5-Medium's attention among image
        tokens alone and those over image prompts pass.
        """
        dim, total = attention.token_dim, self.joint.layout.total
        if self.broken or q.shape[dim] != total or k.shape[dim] != total:
            return attention.plain(q, k, v, mask)
        try:
            return self._joint(attention, q, k, v, mask)
        except Exception as error:  # ours; the call is made again without NAG
            message = str(error).partition("\n")[0][:120]
            self.broken = f"{type(error).__name__} in the joint attention: {message}"
            return attention.plain(q, k, v, mask)

    def _joint(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return attention.merged(attention.plain(*(attention.swapped(x) for x in (q, k, v)), mask))

        swapped = [attention.swapped(x) for x in (q, k, v)]
        if mask is not None and mask.dim() == 2:  # of keys (B, N), as some versions hand it over
            mask = mask[:, None, None]
        out = self.joint.attention(*swapped, plain, attention.is_sdpa, attention.name, mask)
        return attention.split(out, swapped[0].shape[1])

    def finish(self) -> str:
        if self.broken:
            return self.broken
        try:
            joined(self.session, self.joint)
        except NotGuided as reason:
            return str(reason)
        return ""


def _ids(call: WidenedCall, ids: Tensor) -> Tensor:
    """Flux, Chroma: text positions are zero. (tokens, 3), or (B, tokens, 3) as older pipelines have them."""
    slot = ids.new_zeros(*ids.shape[:-2], call.joint.layout.neg, ids.shape[-1])
    return torch.cat([slot, ids], dim=-2)


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
