"""A job started from the page: in a thread of its own, once or, for comparison, with NAG off and then on."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

from modules import errors, shared
from modules.call_queue import queue_lock
from modules.processing import (
    Processed,
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
    get_fixed_seed,
    process_images,
)

NAG_TITLE = "NAG"


def can_compare(runner: Any, script_args: list[Any]) -> bool:
    """Whether NAG is switched on and no selectable script takes the job over."""
    script = runner.script(NAG_TITLE)
    if script is None or script.args_from == script.args_to or script_args[0]:
        return False
    return bool(script_args[script.args_from])


class Job:
    """`results` are (picture, caption, infotext) once `wait` returned True; `error` is set when it failed."""

    def __init__(
        self, is_img2img: bool, named: dict[str, Any], script_args: list[Any], runner: Any, compare: bool
    ) -> None:
        self.is_img2img, self.named, self.runner, self.compare = is_img2img, named, runner, compare
        self.script_args = script_args
        self.results: list[tuple[Any, str, str]] = []
        self.comments = ""
        self.error: str | None = None
        self._thread = threading.Thread(target=self._work, name="sandbox-job", daemon=True)

    def start(self) -> None:
        """Run in the background, when it is this job's turn."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether the job is over, after at most so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            if self.is_img2img and self.named.get("image") is None:
                self.error = "img2img needs an image"
                return
            self.named["seed"] = get_fixed_seed(self.named.get("seed"))
            with queue_lock:
                if self.compare:
                    self._run_both()
                else:
                    self._collect(self._process(self.script_args))
        except Exception as error:
            errors.report("Error completing request", exc_info=True)
            self.error = f"{type(error).__name__}: {error}"

    def _run_both(self) -> None:
        at = self.runner.script(NAG_TITLE).args_from
        off = self._process([*self.script_args[:at], False, *self.script_args[at + 1 :]])
        if shared.state.interrupted:
            self._collect(off, "NAG off")
            return
        on = self._process(self.script_args)
        for without, with_nag in zip(_singles(off), _singles(on), strict=False):
            self.results += [_captioned(without, "NAG off"), _captioned(with_nag, "NAG on")]
        self.results += [_captioned(pair, "NAG on") for pair in _extras(on)]
        self.comments = on.comments

    def _collect(self, processed: Processed, caption: str = "") -> None:
        pairs = [*zip(processed.images, processed.infotexts, strict=False), *_extras(processed)]
        self.results = [_captioned(pair, caption) for pair in pairs]
        self.comments = processed.comments

    def _process(self, script_args: list[Any]) -> Processed:
        fields = {name: value for name, value in self.named.items() if name not in ("image", "mask")}
        if self.is_img2img:
            # One mask value for both directions; a whole-picture inpaint is the only kind here.
            kind = StableDiffusionProcessingImg2Img
            fields.update(
                init_images=[self.named["image"]],
                mask=self.named.get("mask"),
                inpaint_full_res=False,
                inpainting_fill=1,
            )
        else:
            kind = StableDiffusionProcessingTxt2Img
        with closing(kind(**fields, do_not_save_grid=self.compare)) as p:
            p.scripts = self.runner
            p.script_args = tuple(script_args)
            shared.state.begin(job="img2img" if self.is_img2img else "txt2img")
            try:
                processed = self.runner.run(p, *p.script_args)
                return process_images(p) if processed is None else processed
            finally:
                shared.state.end()


def _captioned(pair: tuple[Any, str], caption: str) -> tuple[Any, str, str]:
    image, text = pair
    return image, caption, text


def _singles(processed: Processed) -> list[tuple[Any, str]]:
    first = processed.index_of_first_image
    return list(zip(processed.images[first:], processed.infotexts[first:], strict=False))


def _extras(processed: Processed) -> list[tuple[Any, str]]:
    return [(image, image.info.get("parameters", "")) for image in processed.extra_images]
