"""Requests and responses of /sdapi/v1 with Forge's field names and defaults; unknown fields are ignored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ScriptArg(BaseModel):
    """One control of a script."""

    label: str | None = None
    value: Any = None
    minimum: Any = None
    maximum: Any = None
    step: Any = None
    choices: list[Any] | None = None


class ScriptInfo(BaseModel):
    """A script and its controls in argument order."""

    name: str | None = None
    is_alwayson: bool | None = None
    is_img2img: bool | None = None
    args: list[ScriptArg]


class ProcessingRequest(BaseModel):
    """Fields common to txt2img and img2img."""

    model_config = ConfigDict(extra="ignore")

    prompt: str | list[str] | None = ""
    negative_prompt: str | list[str] | None = ""
    styles: list[str] | None = None
    seed: int | list[int] | None = -1
    subseed: int | None = -1
    subseed_strength: float | None = 0
    sampler_name: str | None = None
    sampler_index: str | None = "Euler"
    scheduler: str | None = None
    batch_size: int | None = 1
    n_iter: int | None = 1
    steps: int | None = 50
    cfg_scale: float | None = 7.0
    distilled_cfg_scale: float | None = 3.5
    width: int | None = 512
    height: int | None = 512
    denoising_strength: float | None = None
    disable_extra_networks: bool | None = False
    do_not_save_grid: bool | None = False
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = True
    script_name: str | None = None
    script_args: list[Any] = []
    alwayson_scripts: dict[str, Any] = {}
    send_images: bool = True
    save_images: bool = False
    infotext: str | None = None


class TextToImageRequest(ProcessingRequest):
    """txt2img, with the hires pass."""

    denoising_strength: float | None = 0.75
    enable_hr: bool | None = False
    firstphase_width: int | None = 0
    firstphase_height: int | None = 0
    hr_scale: float | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int | None = 0
    hr_resize_x: int | None = 0
    hr_resize_y: int | None = 0
    hr_sampler_name: str | None = None
    hr_prompt: str | None = ""
    hr_negative_prompt: str | None = ""
    hr_cfg: float | None = 1.0
    hr_distilled_cfg: float | None = 3.5


class ImageToImageRequest(ProcessingRequest):
    """img2img and inpainting; pictures are base64."""

    denoising_strength: float | None = 0.75
    init_images: list[str] | None = None
    mask: str | None = None
    mask_blur: int | None = None
    mask_blur_x: int | None = 4
    mask_blur_y: int | None = 4
    inpainting_fill: int | None = 0
    inpaint_full_res: bool | None = True
    inpainting_mask_invert: int | None = 0
    initial_noise_multiplier: float | None = None
    include_init_images: bool = False


class ImagesResponse(BaseModel):
    """Pictures in base64, the request as understood, and the job's record as a JSON string."""

    images: list[str] | None = None
    parameters: dict[str, Any]
    info: str


class PNGInfoRequest(BaseModel):
    """A base64 picture."""

    image: str


class PNGInfoResponse(BaseModel):
    """The infotext of a picture, raw and parsed."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class ProgressResponse(BaseModel):
    """How far the running job is, with a preview when there is one."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None
