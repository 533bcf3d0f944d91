"""What NAG needs from a WebUI, with what holds for most of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from nag_core.hosts.patcher.networks import CrossModel, JointModel
from nag_core.passes.session import Session

# What surrounds a pass that the host announces itself: of its job's settings and texts, see
# `Host.await_calls`.
Around = Callable[[Any], AbstractContextManager]


class Host(Protocol):
    """The differences between WebUI generations. `p` is the host's StableDiffusionProcessing throughout."""

    name: str
    lacks: tuple[str, ...] = ()  # fields that do nothing here
    notice: str = ""  # HTML over the controls, with {} for the labels of `lacks`
    negative_hint: str = (
        "Empty: the main negative prompt. Same syntax: (weights:1.2), [from:to:0.5], BREAK, styles."
    )
    records_by_image: bool = True  # whether a list among a job's parameters has an entry for each image
    announces_sampling: bool = True  # to scripts; else see `await_calls`
    no_pass: str = ""  # why a job may come to no pass although nothing is wrong
    confirms_axes: bool = True  # whether the user sees what an axis of X/Y/Z raises before the plot begins

    def await_calls(self, p: Any, around: Around) -> Callable[[], None] | None:
        """Puts `around` around each pass of the batch of `p`, in a WebUI that announces none to scripts; the
        function returned ends that. None where passes are announced, and `install` is called for each.
        """

    def network(self, sd_model: Any) -> nn.Module:
        """The diffusion network; `UnsupportedHost` where there is no way to it."""

    def joint_model(self, network: nn.Module) -> JointModel | None:
        """How to reach the joint attention of a DiT; None for every other network."""

    def cross_model(self, network: nn.Module) -> CrossModel | None:
        """How to reach the cross-attention of a DiT; None for every other network."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        """The host's own attention, heads not split, so that the user's choice of backend is honoured."""

    @property
    def attention_name(self) -> str:
        """The backend behind `attention`, for the report."""

    def weights(self, model: Any) -> Hashable:
        """Changes whenever the patched weights (LoRA) of the model in the denoiser change."""

    def compiled(self, model: Any) -> bool:
        """Whether torch.compile runs the model of this denoiser call, or a part of it."""
        return False

    def as_written(self, model: Any, apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The model call `apply` without what the host puts around it to compile the model."""
        return apply

    def reserve_memory(self, unet: Any, tokens: int) -> None:
        """Tells the host's memory planning of so many tokens of the negative."""

    def samples_one(self, sd_model: Any) -> bool:
        """Whether the pass samples one latent however large the job's batch is (the frames of a video)."""
        return False

    def install(self, p: Any, sd_model: Any, session: Session, schedules: tuple | None = None) -> None:
        """Puts the session on the pass of `p` that is about to be sampled, or under way. Idempotent.

        schedules: the host's own of prompt and negative, None where they are not known any more.
        """

    def installed(self, p: Any, sd_model: Any, session: Session) -> bool:
        """Whether the session is on the model that samples now (the refiner loads another one)."""

    def begin_call(self, p: Any, sd_model: Any, session: Session) -> None:
        """Called in every denoiser call, right before the network runs."""

    def after_encoding(self, sd_model: Any, x: Tensor) -> None:
        """Called when a text was encoded in the middle of sampling: the UNet may have been moved off the
        device.
        """
