"""NAG on the cross-attention modules of an LDM UNet by torch hooks (AUTOMATIC1111's WebUI, no UNet patcher).

The host's attention runs as it is, whatever optimisation the user chose. One hook takes the queries from
`to_q`, another guides what `to_out` is about to project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from nag_core.hosts.patcher.unet import Call, LayerKey, guide_arranged, negative_attention, replaced_forward
from nag_core.method.focus import Focus
from nag_core.method.rows import Arrangement, Group

FOREIGN = "another extension replaced the forward of some attention layers; those are unguided"


@dataclass(slots=True)
class HookedCall:
    """One denoiser call: the network runs once for all rows, or several times for consecutive parts of them.

    images: for each row of the denoiser call the image it draws, None for the uncond. projections: what makes
    the negative's keys and values for a layer.
    """

    call: Call
    images: Sequence[int | None]
    projections: Callable[[nn.Module], Any]
    done: int = 0
    arrangement: Arrangement | None = None
    queries: dict[LayerKey, Tensor] = field(default_factory=dict)

    def enter(self, stack: ExitStack, network: nn.Module, layers: Mapping[LayerKey, nn.Module]) -> None:
        """Hooks in place until `stack` closes."""
        stack.callback(network.register_forward_pre_hook(self._begin).remove)
        stack.callback(network.register_forward_hook(self._end, always_call=True).remove)
        chosen = self.call.session.blocks
        for key, layer in layers.items():
            if chosen is not None and key[:2] not in chosen:
                continue
            if replaced_forward(layer):
                self.call.session.problem(FOREIGN)
                continue
            stack.callback(layer.to_q.register_forward_hook(self._noting(key)).remove)
            stack.callback(layer.to_out[0].register_forward_pre_hook(self._guiding(key, layer)).remove)

    def _begin(self, _: nn.Module, arguments: tuple) -> None:
        """Which rows these are: the host goes through them in order. Anything else is nobody's guess."""
        rows = arguments[0].shape[0]
        first = self.done % len(self.images)
        part = self.images[first : first + rows]
        self.done = first + rows
        self.arrangement = None
        self.call = replace(self.call, size=tuple(arguments[0].shape[-2:]))
        if len(part) < rows:
            self.call.session.problem("a batch layout nobody knows; there the attention ran unguided")
        elif any(image is not None for image in part):
            self.arrangement = self.call.batch.of_images(part, arguments[0].device)

    def _end(self, *_: Any) -> None:
        self.arrangement = None
        self.queries.clear()

    def _noting(self, key: LayerKey) -> Callable[..., None]:
        def noting(_: nn.Module, __: tuple, q: Tensor) -> None:
            if self.arrangement is not None:
                self.queries[key] = q

        return noting

    def _guiding(self, key: LayerKey, layer: nn.Module) -> Callable[..., None]:
        def guiding(_: nn.Module, arguments: tuple) -> None:
            q, session = self.queries.pop(key, None), self.call.session
            if q is None or self.arrangement is None or session.closed:
                return
            try:
                options = {"n_heads": layer.heads}
                made_by = self.projections(layer)

                def attend(group: Group, focus: Focus) -> Tensor:
                    return negative_attention(q, options, group, key, made_by, None, self.call, focus)

                guide_arranged(arguments[0], self.arrangement, key, self.call, attend, may_write=True)
            except Exception as error:  # a failure of ours must cost the user the guidance, not the picture
                session.problem(f"{type(error).__name__} in some layers, which ran unguided", error)

        return guiding
