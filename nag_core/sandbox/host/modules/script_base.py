"""The base class of scripts and the argument objects of its hooks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AlwaysVisible = object()


@dataclass
class PostSampleArgs:
    """Latents of a batch, before decoding."""

    samples: Any


@dataclass
class PostprocessImageArgs:
    """One finished picture and its number in the job."""

    image: Any
    index: int = 0


@dataclass
class PostProcessMaskOverlayArgs:
    """Mask and overlay of one inpainted picture."""

    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass
class PostprocessBatchListArgs:
    """The pictures of a batch as a list, which a script may shorten or extend."""

    images: list[Any]


@dataclass
class MaskBlendArgs:
    """The blend of inpainted and kept latent, at every step and once at the end (`denoiser` is None then)."""

    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None

    @property
    def is_final_blend(self) -> bool:
        """Whether this is the blend after sampling."""
        return self.denoiser is None


@dataclass
class OnComponent:
    """The argument of `on_after_component` callbacks."""

    component: Any


class Script:
    """One feature of the page and its hooks into a job, in the order of the job.

    Every hook receives the processing object and then the values of the controls that `ui` returned.
    """

    name: str | None = None
    section: str | None = None
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    group: Any = None
    create_group = True
    infotext_fields: list[Any] | None = None
    paste_field_names: list[Any] | None = None
    api_info: Any = None
    on_before_component_elem_id: list[tuple[str, Callable[[OnComponent], None]]] | None = None
    on_after_component_elem_id: list[tuple[str, Callable[[OnComponent], None]]] | None = None
    setup_for_ui_only = False
    controls: list[Any] | None = None
    sorting_priority: float = 0

    def title(self) -> str:
        """The name on the page and, in lower case, the key in API requests."""
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list[Any] | None:
        """Create the controls and return those whose values are the hooks' arguments."""

    def show(self, is_img2img: bool) -> Any:
        """AlwaysVisible, True (listed in the Script dropdown) or False."""
        return True

    def run(self, p: Any, *args: Any) -> Any:
        """A selected script does the whole job and returns Processed."""

    def setup(self, p: Any, *args: Any) -> None:
        """The job's arguments are known."""

    def before_process(self, p: Any, *args: Any) -> None:
        """Before anything, the model included."""

    def process(self, p: Any, *args: Any) -> None:
        """Prompts and seeds of the whole job are known."""

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before extra networks are read from the batch's prompts."""

    def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Extra networks are active."""

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before the batch's prompts are encoded."""

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before every sampling pass: the place to patch a clone of the unet. Twice before a hires pass."""

    def before_hr(self, p: Any, *args: Any) -> None:
        """Before the hires pass."""

    def on_mask_blend(self, p: Any, mba: MaskBlendArgs, *args: Any) -> None:
        """Kept and inpainted latents were blended."""

    def before_process_init_images(self, p: Any, pp: Any, *args: Any, **kwargs: Any) -> None:
        """Before img2img's pictures are encoded."""

    def post_sample(self, p: Any, ps: PostSampleArgs, *args: Any) -> None:
        """Latents of the batch are ready."""

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Decoded pictures of the batch, as one tensor."""

    def postprocess_batch_list(self, p: Any, pp: PostprocessBatchListArgs, *args: Any, **kwargs: Any) -> None:
        """The same pictures as a list."""

    def postprocess_image(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """Every picture."""

    def postprocess_maskoverlay(self, p: Any, ppmo: PostProcessMaskOverlayArgs, *args: Any) -> None:
        """Every picture, before the kept part of the original is laid over it."""

    def postprocess_image_after_composite(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """Every picture, after the overlay."""

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        """End of the job; not reached when it raised."""

    def before_component(self, component: Any, **kwargs: Any) -> None:
        """Before any control of the page is created."""

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """After any control of the page was created."""

    def on_before_component(self, callback: Callable[[OnComponent], None], *, elem_id: str) -> None:
        """Call back before the control with this id is created; to be called from `show`."""
        self.on_before_component_elem_id = [*(self.on_before_component_elem_id or []), (elem_id, callback)]

    def on_after_component(self, callback: Callable[[OnComponent], None], *, elem_id: str) -> None:
        """Call back once the control with this id exists; to be called from `show`."""
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def describe(self) -> str:
        """Unused; kept because old scripts override it."""
        return ""

    def elem_id(self, item_id: str) -> str:
        """The control's id on the page: script_<tab>_<title>_<item>, no <tab> if one tab only shows it."""
        in_both = self.show(True) == self.show(False)
        tab = ("img2img_" if self.is_img2img else "txt2img_") if in_both else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"


class ScriptBuiltinUI(Script):
    """A script that is part of the page itself: its ids carry no script name."""

    setup_for_ui_only = True

    def elem_id(self, item_id: str) -> str:
        """<tab>_<item>, without the tab where only one tab shows it."""
        in_both = self.show(True) == self.show(False)
        return (("img2img_" if self.is_img2img else "txt2img_") if in_both else "") + item_id

    def show(self, is_img2img: bool) -> Any:
        """Always on."""
        return AlwaysVisible
