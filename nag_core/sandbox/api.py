"""The routes under /sdapi/v1, with the host's names, defaults and ways to fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from secrets import compare_digest
from typing import Annotated, Any

import gradio as gr
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import errors, images, infotext_utils, script_callbacks, scripts, sd_models, sd_samplers, shared
from modules.api import models
from modules.call_queue import queue_lock
from modules.processing import (
    Processed,
    StableDiffusionProcessingImg2Img,
    StableDiffusionProcessingTxt2Img,
    process_images,
)

NOT_FOR_JOB = {
    "script_name",
    "script_args",
    "alwayson_scripts",
    "send_images",
    "save_images",
    "infotext",
    "sampler_name",
    "sampler_index",
    "init_images",
    "mask",
    "include_init_images",
}


def check_credentials(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    """401 unless the request carries one of the `--api-auth user:password` pairs."""
    known = dict(pair.split(":", 1) for pair in shared.cmd_opts.api_auth.split(","))
    expected = known.get(credentials.username)
    if expected is None or not compare_digest(credentials.password.encode(), expected.encode()):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})


def default_script_args(runner: Any) -> list[Any]:
    """The values in code of every control. `ui` runs twice a script in a throw-away page, as on the host."""
    args: list[Any] = [None] * max([1, *(script.args_to or 0 for script in runner.scripts)])
    args[0] = 0
    with gr.Blocks():
        for script in runner.scripts:
            if script.ui(script.is_img2img):
                args[script.args_from : script.args_to] = [
                    control.value for control in script.ui(script.is_img2img)
                ]
    return args


def script_index(name: str, candidates: list[Any]) -> int:
    """Position of a script by title, in any case; 422 when there is none."""
    try:
        return [script.title().lower() for script in candidates].index(name.lower())
    except Exception as error:
        raise HTTPException(422, f"Script '{name}' not found") from error


def merge_script_args(request: models.ProcessingRequest, defaults: list[Any], runner: Any) -> list[Any]:
    """Defaults, overwritten from the front by what the request gives; surplus arguments are dropped."""
    args = defaults.copy()
    if request.script_name:
        index = script_index(request.script_name, runner.selectable_scripts)
        script = runner.selectable_scripts[index]
        args[script.args_from : script.args_to] = request.script_args
        args[0] = index + 1
    for name, given in request.alwayson_scripts.items():
        script = runner.scripts[script_index(name, runner.scripts)]
        if not script.alwayson:
            raise HTTPException(422, "Cannot have a selectable script in the always on scripts params")
        if "args" in given:
            for i in range(min(script.args_to - script.args_from, len(given["args"]))):
                args[script.args_from + i] = given["args"][i]
    return args


def decode_image(encoded: str) -> Any:
    """A picture from base64; addresses are refused, because the sandbox never reaches out."""
    if encoded.startswith(("http://", "https://")):
        raise HTTPException(500, "Requests not allowed")
    try:
        return images.decode_base64(encoded)
    except ValueError as error:
        raise HTTPException(500, str(error)) from error


class Api:
    """Adds the routes; every route is behind `--api-auth` when that is set."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.defaults = {
            False: default_script_args(scripts.scripts_txt2img),
            True: default_script_args(scripts.scripts_img2img),
        }
        self.dependencies = [Depends(check_credentials)] if shared.cmd_opts.api_auth else []
        self._add("txt2img", self.text2img, "POST", models.ImagesResponse)
        self._add("img2img", self.img2img, "POST", models.ImagesResponse)
        self._add("png-info", self.png_info, "POST", models.PNGInfoResponse)
        self._add("progress", self.progress, "GET", models.ProgressResponse)
        self._add("interrupt", self.interrupt, "POST")
        self._add("skip", self.skip, "POST")
        self._add("options", lambda: shared.opts.data, "GET")
        self._add("options", self.set_options, "POST")
        self._add("cmd-flags", lambda: vars(shared.cmd_opts), "GET")
        self._add("memory", self.memory, "GET")
        self._add("samplers", self.samplers, "GET")
        self._add("schedulers", lambda: [{"name": "automatic", "label": "Automatic"}], "GET")
        self._add("upscalers", lambda: [{"name": "None", "scale": 4}], "GET")
        self._add(
            "latent-upscale-modes", lambda: [{"name": name} for name in shared.latent_upscale_modes], "GET"
        )
        self._add("sd-models", self.sd_models, "GET")
        self._add("scripts", self.scripts, "GET")
        self._add("script-info", self.script_info, "GET", list[models.ScriptInfo])

    def _add(self, path: str, endpoint: Callable[..., Any], method: str, response_model: Any = None) -> None:
        self.app.add_api_route(
            f"/sdapi/v1/{path}",
            endpoint,
            methods=[method],
            response_model=response_model,
            dependencies=self.dependencies,
        )

    def text2img(self, request: models.TextToImageRequest) -> models.ImagesResponse:
        """One txt2img job."""
        processed = self._run(request, False, StableDiffusionProcessingTxt2Img, {})
        return _response(request, processed)

    def img2img(self, request: models.ImageToImageRequest) -> models.ImagesResponse:
        """One img2img job."""
        if request.init_images is None:
            raise HTTPException(404, "Init image not found")
        extra = {
            "init_images": [decode_image(encoded) for encoded in request.init_images],
            "mask": decode_image(request.mask) if request.mask else None,
        }
        processed = self._run(request, True, StableDiffusionProcessingImg2Img, extra)
        if not request.include_init_images:
            request.init_images = request.mask = None
        return _response(request, processed)

    def _run(
        self, request: models.ProcessingRequest, is_img2img: bool, kind: type, extra: dict[str, Any]
    ) -> Processed:
        if request.infotext:
            raise HTTPException(500, "the field 'infotext' does not work on this host")
        try:
            return self._process(request, is_img2img, kind, extra)
        except HTTPException:
            raise
        except Exception as error:
            errors.report("API error", exc_info=True)
            raise HTTPException(500, f"{type(error).__name__}: {error}") from error

    def _process(
        self, request: models.ProcessingRequest, is_img2img: bool, kind: type, extra: dict[str, Any]
    ) -> Processed:
        runner = scripts.scripts_img2img if is_img2img else scripts.scripts_txt2img
        args = merge_script_args(request, self.defaults[is_img2img], runner)
        fields = {
            name: value
            for name, value in request.model_dump().items()
            if name not in NOT_FOR_JOB and value is not None
        }
        fields["sampler_name"] = sd_samplers.find_sampler_config(
            request.sampler_name or request.sampler_index
        ).name
        fields["do_not_save_samples"] = fields["do_not_save_grid"] = not request.save_images
        tab = "img2img" if is_img2img else "txt2img"
        with queue_lock, closing(kind(**fields, **extra)) as p:
            p.scripts = runner
            shared.state.begin(job=f"scripts_{tab}")
            try:
                p.script_args = args if request.script_name else tuple(args)
                return runner.run(p, *args) if request.script_name else process_images(p)
            finally:
                shared.state.end()

    def png_info(self, request: models.PNGInfoRequest) -> models.PNGInfoResponse:
        """The infotext of a picture; scripts hear of it as of a paste."""
        info, items = images.read_info_from_image(decode_image(request.image.strip()))
        params = infotext_utils.parse_generation_parameters(info or "")
        script_callbacks.infotext_pasted_callback(info or "", params)
        return models.PNGInfoResponse(info=info or "", items=items, parameters=params)

    def progress(self, skip_current_image: bool = False) -> models.ProgressResponse:
        """How far the running job is."""
        state = shared.state
        share, picture = state.progress(), None
        elapsed = time.time() - state.time_start if share else 0.0
        if state.job_count and state.current_latent is not None and not skip_current_image:
            from modules.sd_samplers_common import sample_to_image

            picture = images.encode_png(sample_to_image(state.current_latent))
        return models.ProgressResponse(
            progress=share,
            eta_relative=elapsed / share - elapsed if share else 0.0,
            state=state.dict(),
            current_image=picture,
            textinfo=state.textinfo,
        )

    def interrupt(self) -> dict[str, Any]:
        """Stop the running job."""
        shared.state.interrupt()
        return {}

    def skip(self) -> None:
        """Stop the running batch."""
        shared.state.skip()

    def set_options(self, request: dict[str, Any]) -> None:
        """Change settings; unknown ones are ignored."""
        for key, value in request.items():
            shared.opts.set(key, value)

    def memory(self) -> dict[str, Any]:
        """Bytes of main memory this process holds, where the system tells (Linux). There is no GPU."""
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            used, total = (
                count * os.sysconf("SC_PAGE_SIZE") for count in (pages, os.sysconf("SC_PHYS_PAGES"))
            )
            ram = {"free": total - used, "used": used, "total": total}
        except (OSError, ValueError, AttributeError) as error:
            ram = {"error": str(error)}
        return {"ram": ram, "cuda": {"error": "unavailable"}}

    def samplers(self) -> list[dict[str, Any]]:
        """Samplers by name."""
        return [
            {"name": data.name, "aliases": data.aliases, "options": data.options}
            for data in sd_samplers.all_samplers
        ]

    def sd_models(self) -> list[dict[str, Any]]:
        """The two models."""
        return [
            {
                "title": data.title,
                "model_name": data.name,
                "hash": None,
                "sha256": None,
                "filename": data.filename,
                "config": None,
            }
            for data in sd_models.checkpoints_list.values()
        ]

    def scripts(self) -> dict[str, list[str]]:
        """Script names by tab."""
        return {
            tab: [script.name for script in runner.scripts if script.name is not None]
            for tab, runner in (("txt2img", scripts.scripts_txt2img), ("img2img", scripts.scripts_img2img))
        }

    def script_info(self) -> list[models.ScriptInfo]:
        """Every script's controls."""
        return [
            script.api_info
            for runner in (scripts.scripts_txt2img, scripts.scripts_img2img)
            for script in runner.scripts
            if script.api_info is not None
        ]


def _response(request: models.ProcessingRequest, processed: Processed) -> models.ImagesResponse:
    pictures = processed.images + processed.extra_images if request.send_images else []
    return models.ImagesResponse(
        images=list(map(images.encode_png, pictures)), parameters=request.model_dump(), info=processed.js()
    )
