"""Normalized Attention Guidance: registration with the WebUI. What it does lives in nag_core."""

from __future__ import annotations

from modules import script_callbacks, scripts

from nag_core import config
from nag_core.webui import foreign_infotext, infotext, panel
from nag_core.webui.job import Job, Jobs
from nag_core.webui.log import get_logger

logger = get_logger()


class NagScript(scripts.Script):
    """The AlwaysVisible script "NAG". One instance per tab; what belongs to a job is in `jobs`, by job."""

    sorting_priority = 13.5

    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs()

    def title(self) -> str:
        return "NAG"

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        components, self.infotext_fields, self.paste_field_names = panel.build(self)
        return components

    def process(self, p, *args) -> None:
        infotext.clear(p.extra_generation_params)
        request = config.parse(args)
        job = Job.of(request) if request.settings.enabled else None
        self.jobs.start(p, job)
        if job is not None:
            infotext.write(p.extra_generation_params, request.settings, job.strength(p.sd_model))

    def process_before_every_sampling(self, p, *args, **kwargs) -> None:
        job = self.jobs.of(p)
        if job is not None:
            job.begin_pass(p, kwargs.get("uc"))

    def postprocess_batch(self, p, *args, **kwargs) -> None:
        job = self.jobs.of(p)
        if job is None:
            return
        sentence = job.end_batch()
        p.extra_generation_params[infotext.REPORT] = sentence
        p.comment(f"NAG: {sentence}")
        logger.info("NAG: %s", sentence)

    def postprocess(self, p, processed, *args) -> None:
        self.jobs.end(p)


def keep_installed(params) -> None:
    """on_cfg_denoiser, registered for good and idle unless the running job has NAG on."""
    denoiser = params.denoiser
    for script in getattr(getattr(denoiser.p, "scripts", None), "alwayson_scripts", None) or ():
        job = script.jobs.of(denoiser.p) if isinstance(script, NagScript) else None
        if job is not None:
            job.keep_installed(denoiser.p, denoiser.inner_model.inner_model, params.x)


script_callbacks.on_cfg_denoiser(keep_installed)
script_callbacks.on_infotext_pasted(foreign_infotext.translate)
