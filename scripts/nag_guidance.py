"""Normalized Attention Guidance: registration with the WebUI. What it does lives in nag_core."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from modules import paths, script_callbacks, scripts

from nag_core.hosts import asked, model, which
from nag_core.hosts.base import Host
from nag_core.passes.report import PassReport
from nag_core.settings import user_presets
from nag_core.webui import (
    asked_for,
    foreign_infotext,
    heat_picture,
    infotext,
    negative_box,
    negative_text,
    options,
    panel,
    routes,
    sender,
    spared,
    xyz,
)
from nag_core.webui.job import Job
from nag_core.webui.jobs import Jobs, nested
from nag_core.webui.log import get_logger
from nag_core.webui.status import Status

logger = get_logger()
FOLDER = Path(__file__).parents[1]
with spared.saying("your own presets are kept in the extension's folder"):
    FOLDER = asked.attribute(paths, "data_path")
PRESETS = user_presets.Store(Path(FOLDER, user_presets.FILE_NAME))
STATUS = Status()
register_axes = spared.spared("the plot has no NAG axes")(partial(xyz.register, PRESETS.load))
watch_boxes = spared.spared("negative boxes that the WebUI greys out stay grey")(negative_box.watch)


class NagScript(scripts.Script):
    """The AlwaysVisible script "NAG". One instance per tab; what belongs to a job is in `jobs`, by job."""

    sorting_priority = 13.5

    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs()
        self.watches_boxes = False

    def title(self) -> str:
        return "NAG"

    @spared.spared("NAG is not there")
    def show(self, is_img2img: bool):
        if not self.watches_boxes:  # elem_id() calls show() again, for each control
            self.watches_boxes = True
            watch_boxes(self, is_img2img)
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        register_axes()
        try:
            components, self.infotext_fields, self.paste_field_names = panel.build(self, PRESETS)
        except Exception as error:
            return spared.no_section(error)
        return components

    @spared.spared("presets and the default negative of this machine are not known to others")
    def setup(self, p, *args) -> None:
        sender.taken_along(p, self.args_from, self.args_to, PRESETS.load)

    @spared.hook(spared.NOT_APPLIED)
    def process(self, p, *args) -> None:
        if not nested(p):
            STATUS.announced()
        shares = self.jobs.inside_another(p)
        if not shares:
            infotext.clear(p.extra_generation_params)
        request = asked_for.request(p, args, PRESETS.load())
        job = Job.of(request) if request.settings.enabled else None
        self.jobs.start(p, job)
        strength = job.build.strength(p.sd_model) if job is not None else None
        if not nested(p):
            STATUS.began(request.settings, strength, None if job is None else model.family(p.sd_model))
        if job is not None:
            job.recorded = strength
            if not shares:
                infotext.write(p.extra_generation_params, request.settings, strength)
        else:
            xyz.tell_if_off(p, args)
            if request.notes:
                self._say(p, asked_for.said_while_off(request.notes), [])

    @spared.hook(spared.NOT_APPLIED)
    def process_batch(self, p, *args, **kwargs) -> None:
        job = self.jobs.of(p)
        if job is not None:
            if job.build.settings.each_negative and not self.jobs.inside_another(p):
                images = len(p.prompts)
                texts = negative_text.of_batch(job.build.settings, p, images)
                before = negative_text.images_before(p, images)
                infotext.write_negatives(p.extra_generation_params, texts, before)
            job.begin_batch(p)

    @spared.hook(spared.NOT_APPLIED)
    def process_before_every_sampling(self, p, *args, **kwargs) -> None:
        job = self.jobs.of(p)
        if job is None:
            return
        job.begin_pass(p, kwargs.get("uc"), kwargs.get("c"))
        if not self.jobs.inside_another(p):
            infotext.write_report_when_read(p.extra_generation_params, job.so_far)
            if job.recorded is not None and (hires := job.of_hires()) is not None:
                infotext.write_hires(p.extra_generation_params, job.recorded, hires)

    @spared.hook("the report is not complete")
    def postprocess_batch(self, p, *args, images=None, **kwargs) -> None:
        job = self.jobs.of(p)
        if job is None:
            return
        sentence = job.end_batch(None if images is None else len(images))
        if any(heat is not None for heat in job.heats) and not nested(p) and heat_picture.taken_by_script(p):
            sentence = f"{sentence}; {heat_picture.BESIDE}"
        self._say(p, sentence, job.reports)

    def _say(self, p, sentence: str, reports: list[PassReport]) -> None:
        """Where a user looks for it. A job within another one writes nothing that is the other's."""
        if not self.jobs.inside_another(p):
            infotext.write_report(p.extra_generation_params, sentence, reports)
        if not nested(p):
            STATUS.reported(sentence, reports)
            if options.read(options.COMMENTS):
                p.comment(f"NAG: {sentence}")
        logger.info("NAG: %s", sentence)

    @spared.hook("no heat map, and no word on whose picture this is")
    def postprocess_image(self, p, pp, *args) -> None:
        job = self.jobs.of(p)
        if job is not None and not nested(p):
            job.finish(p, pp.image)

    @spared.hook("no heat map")
    def postprocess(self, p, processed, *args) -> None:
        job = self.jobs.of(p)
        try:
            if job is not None and job.passes:  # ersatzForge ends no batch that was interrupted
                self._say(p, job.end_batch(None), job.reports)
            if job is not None and job.heat_pictures:
                heat_picture.show(p, processed, job.heat_pictures)
        finally:
            self.jobs.end(p)


def keep_installed(params) -> None:
    """on_cfg_denoiser, registered for good and idle unless the running job has NAG on."""
    denoiser = params.denoiser
    for script in getattr(getattr(denoiser.p, "scripts", None), "alwayson_scripts", None) or ():
        job = script.jobs.of(denoiser.p) if isinstance(script, NagScript) else None
        if job is not None:
            job.keep_installed(denoiser.p, denoiser.inner_model.inner_model, params.x)


COSTS = {
    "on_cfg_denoiser": (keep_installed, "a switch of the model during sampling goes unnoticed"),
    "on_before_ui": (register_axes, "the plot may have no NAG axes"),
    "on_infotext_pasted": (foreign_infotext.translate, "parameters of other NAG programs are not read"),
    "on_ui_settings": (options.register, "the settings have no NAG page"),
    "on_app_started": (partial(routes.register, store=PRESETS, status=STATUS), "there are no /nag/v1 routes"),
}
for event, (function, cost) in COSTS.items():
    # Called from this file: hosts file a callback under the one it comes from.
    with spared.saying(cost):
        asked.attribute(script_callbacks, event)(spared.spared(cost)(function))
spared.check_hooks(scripts.Script, (which.detected() or Host).announces_sampling)
