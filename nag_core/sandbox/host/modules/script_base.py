"""The base class of scripts and the argument objects of its hooks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AlwaysVisible = object()


@dataclass
class PostprocessImageArgs:
    """One finished picture and its number in the job."""

    image: Any
    index: int = 0


@dataclass
class PostprocessBatchListArgs:
    """The pictures of a batch."""

    images: list[Any]


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
    is_img2img = False
    group: Any = None
    create_group = True
    infotext_fields: list[Any] | None = None
    paste_field_names: list[Any] | None = None
    api_info: Any = None
    on_after_component_elem_id: list[tuple[str, Callable[[OnComponent], None]]] | None = None
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
        """The job has got its scripts and their arguments; no script has begun yet."""

    def before_process(self, p: Any, *args: Any) -> None:
        """Before anything, the model included."""

    def process(self, p: Any, *args: Any) -> None:
        """Prompts and seeds of the whole job are known."""

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before the batch's prompts are encoded."""

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before every sampling pass: the place to patch a clone of the unet. Twice before a hires pass."""

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Decoded pictures of the batch, as one tensor."""

    def postprocess_batch_list(self, p: Any, pp: PostprocessBatchListArgs, *args: Any, **kwargs: Any) -> None:
        """The batch's pictures as a list, which a script may shorten or extend."""

    def postprocess_image_after_composite(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """Every picture, after the kept part of the original was laid over it."""

    def postprocess_image(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """Every picture."""

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        """End of the job; not reached when it raised."""

    def on_after_component(self, callback: Callable[[OnComponent], None], *, elem_id: str) -> None:
        """Call back once the control with this id exists; to be called from `show`."""
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def elem_id(self, item_id: str) -> str:
        """The control's id on the page: script_<tab>_<title>_<item>, no <tab> if one tab only shows it."""
        in_both = self.show(True) == self.show(False)
        tab = ("img2img_" if self.is_img2img else "txt2img_") if in_both else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"
