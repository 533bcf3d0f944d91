"""A host whose update took something away that the table names: the job says so, and keeps its pictures.

The sandbox without each entry in turn (tests/lacking.py), and with another function in the place of each.
"""

import logging
from contextlib import nullcontext

import pytest

import nag_core
from nag_core.webui import spared
from tests import host_table
from tests.contract.test_host_paths import swapped_model
from tests.host_table import FORGE, Function
from tests.lacking import lacking
from tests.live.serving import ROOT

SCRIPT = str(ROOT / "scripts" / "nag_guidance.py")
VERSIONS = f"(WebUI sandbox, NAG {nag_core.__version__})"
TO_REPORT = f"please report this line to the author of this extension {VERSIONS}"
AS_WORDS = "styles and wildcards in the NAG negative are read as words"
# Of a model that NAG does not know nobody can say whether it ever was another one.
UNKNOWN_MODEL = "has no attention over text that NAG knows"

ON = {"enabled": True, "scale": 4}
SMALL = {"width": 32, "height": 32, "steps": 2}
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.9, "hr_cfg": 1, "hr_second_pass_steps": 2}
FLUX = {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}
WHOLE, MAIN, REFINER, JOINT, PLOT = "whole", "main negative", "refiner", "flux", "a plot's cell"
# A job by what it needs of the host: (NAG's arguments, the job's).
JOBS = {
    WHOLE: (
        [ON | {"negatives": "[blue:green:0.5] <lora:a:1>\nred", "heat_map": True}],
        SMALL | HIRES | {"do_not_save_samples": False},
    ),
    MAIN: ([ON], SMALL | HIRES | {"cfg_scale": 3}),
    REFINER: ([ON | {"negative": "blue"}], SMALL | {"steps": 4}),
    JOINT: ([ON], SMALL | FLUX),
    PLOT: ([ON | {"scale": 1}], SMALL),
}
OF_ONE_JOB = {
    "StableDiffusionProcessing.get_conds": REFINER,
    "StableDiffusionProcessingTxt2Img.get_conds": REFINER,
    "sampling_prepare": REFINER,
    "CFGDenoiserParams.x": REFINER,
    "CFGDenoiserParams.denoiser": REFINER,
    "CFGDenoiser.p": REFINER,
    "StableDiffusionProcessing.negative_prompts": MAIN,
    "StableDiffusionProcessingTxt2Img.hr_negative_prompts": MAIN,
    "model_function_wrapper": JOINT,
    "c_crossattn": JOINT,
    "StableDiffusionProcessing.script_args": PLOT,
    "StableDiffusionProcessing.scripts": PLOT,
    "ScriptRunner.alwayson_scripts": PLOT,
    "Script.args_from": PLOT,
} | {entry.name: JOINT for entry in host_table.FAMILIES}

# Needed when the WebUI starts, or by the page.
AT_START = {
    "data_path", "on_before_ui", "on_infotext_pasted", "on_ui_settings", "on_app_started", "on_cfg_denoiser",
    "AlwaysVisible", "scripts_data", "Script.on_after_component", "Script.elem_id", "InputAccordion",
    "ToolButton", "cmd_opts", "OptionInfo", "OptionInfo.__init__", "OptionInfo.info",
    "OptionInfo.needs_reload_ui", "*.add_option", "AxisOption.__init__",
    "update_negative_prompt_token_counter",
}  # fmt: skip
# Hooks without which a job is guided and reported alike; a batch that is not ended ends with the job.
OTHERS_DO = ("setup", "process_batch", "postprocess_batch", "postprocess_image", "postprocess")
HOOKS = {f"Script.{name}" for name in spared.HOOKS}

PADS = "for the padding that VSF leaves out only; tests/unit/test_padding.py has what is said"
NOT_HERE = "the sandbox has no such thing"
SAME = "something else serves as well, and the picture is the same"
SLOWER = "the prompt's keys and values are made anew in every step"
FOREIGN = "needed beside another extension only"
PASTED = "for a picture that is pasted, whose text is then taken as it stands"
IN_HEADER = "only the line in the header is without it (test_settings_and_routes.py)"
SAVED = "for heat maps that are saved, which the sandbox does not"
BUILT = "of networks that are built already; `python -m tests.drift` names what their source lacks"
LOADED = "without it no script of anyone's is loaded, and the host says so itself"
# What no job says to be gone, and why that is right.
UNSEEN = {
    "ScheduledPromptConditioning": SAME,  # both parts are read by their place
    "end_at_step": SLOWER,
    "cond": "for a schedule of Chroma's only (test_host_paths.py)",
    "ComposableScheduledPromptConditioning.schedules": SLOWER,
    "MulticondLearnedConditioning.batch": SLOWER,
    "StableDiffusionProcessing.steps": SAME,
    "StableDiffusionProcessing.firstpass_steps": SAME,
    "StableDiffusionProcessing.extra_network_data": SAME,
    "StableDiffusionProcessingTxt2Img.hr_extra_network_data": SAME,
    "StableDiffusionProcessing.distilled_cfg_scale": SAME,
    "StableDiffusionProcessingTxt2Img.hr_distilled_cfg": SAME,
    "callback_map": SLOWER,
    "callbacks_cfg_denoiser": SLOWER,
    **dict.fromkeys(("*.input_blocks", "*.middle_block", "*.output_blocks", "*.transformer_blocks"), BUILT),
    **{f"CrossAttention.{name}": BUILT for name in ("to_q", "to_k", "to_v", "to_out", "heads")},
    "attn2_patch": FOREIGN,
    "tiled_diffusion": FOREIGN,
    "*.get_prompt_lengths_on_ui": PADS,
    "ClassicTextProcessingEngine.process_texts": PADS,
    "*.lora_loader": "for a LoRA that changes within a pass only",
    "LoraLoader.loaded_hash": NOT_HERE,
    "n_heads": SAME,  # the layer knows it, too
    "attention_pytorch": SAME,  # which function it is decides on the path only
    "IntegratedChromaTransformer2DModel": NOT_HERE,
    "MMDiTX": NOT_HERE,
    "*.joint_blocks": NOT_HERE,
    "attention": NOT_HERE,
    "strip_comments": NOT_HERE,
    "save_image": NOT_HERE,
    "Script.title": LOADED,
    "Script.ui": LOADED,
    "Script.show": LOADED,
    "Script.controls": "the boxes that the host greys out stay grey (tests/browser)",
    "extract_style_text_from_prompt": PASTED,
    "StyleDatabase.styles": PASTED,
    "model_data": PASTED,
    **dict.fromkeys(("forge_loading_parameters", "forge_hash", "sd_checkpoint_info"), IN_HEADER),
    "create_sampler": PASTED,
    "KDiffusionSampler.get_sigmas": PASTED,
    "update_token_counter": "called by the one for negative prompts",
    "read": NOT_HERE,
    "create_binary_mask": NOT_HERE,
    "StableDiffusionProcessing.all_prompts": FOREIGN,
    "StableDiffusionProcessing.all_seeds": "for the styles of SD.Next only",
    "StableDiffusionProcessing.batch_size": FOREIGN,
    "batch_index": "the host's loop sets it itself",
    "StableDiffusionProcessing.iteration": FOREIGN,
    "StableDiffusionProcessing.outpath_samples": SAVED,
    "StableDiffusionProcessing.all_negative_prompts": FOREIGN,
    "ScriptRunner.selectable_scripts": FOREIGN,
    "Processed.images": "where the host has no place beside the results for a heat map",
}


def changed(*, unlike):
    raise AssertionError("called with what it does not take")


def cases(wanted):
    """(entry, what stands in its place) of every entry, and of a function a second time."""
    for entry in host_table.entries(FORGE):
        if wanted(entry.name):
            where = entry.files[0].rpartition("/")[2]
            yield pytest.param(entry, None, id=f"{where} {entry.name} gone")
            if isinstance(entry, Function):
                # A page is built for each thing that a start needs.
                marks = pytest.mark.slow if entry.name in AT_START else ()
                yield pytest.param(entry, changed, id=f"{where} {entry.name} changed", marks=marks)


@pytest.fixture
def drawn(host, prepared, caplog):
    """`drawn(kind, nag)`: what a user gets of a job: pictures, report, and the warnings in the log."""

    def draw(kind, nag):
        caplog.clear()
        host.errors.exception_records.clear()
        swap = swapped_model(host) if kind == REFINER else nullcontext()
        with caplog.at_level(logging.WARNING, "nag"), swap, prepared(nag, **JOBS[kind][1]) as p:
            if kind == PLOT:
                axis(host).apply(p, 4.0, [4.0])
            processed = host.processing.process_images(p)
        assert host.errors.exception_records == [], "a traceback in the host's log"
        report = str(p.extra_generation_params.get("NAG report", ""))
        return [image.tobytes() for image in processed.images], report, list(caplog.messages)

    return draw


def axis(host):
    loaded = {one.script_class.__module__: one.module for one in host.scripts.scripts_data}
    return {option.label: option for option in loaded["xyz_grid.py"].axis_options}["[NAG] Scale"]


KNOWN = {}


@pytest.fixture
def plain(drawn):
    """`plain(kind)`: the job with NAG off and with NAG on, of a host that lacks nothing."""

    def draw(kind):
        if kind not in KNOWN:
            KNOWN[kind] = drawn(kind, []), drawn(kind, JOBS[kind][0])
        return KNOWN[kind]

    return draw


def test_the_jobs_that_nothing_is_taken_from_are_guided(plain):
    for kind in JOBS:
        (off, _, _), (on, report, warnings) = plain(kind)
        assert off[0] != on[0], kind
        assert "not applied" not in report
        assert TO_REPORT not in report
        assert warnings == []


@pytest.mark.parametrize(("entry", "instead"), cases(lambda name: name not in AT_START | HOOKS))
def test_a_job_says_what_is_gone_and_keeps_its_pictures(drawn, plain, entry, instead):
    kind = OF_ONE_JOB.get(entry.name, WHOLE)
    off, on = plain(kind)
    with lacking(entry, instead):
        pictures, report, warnings = drawn(kind, JOBS[kind][0])
    said = [one for one in (report, *warnings) if TO_REPORT in one or UNKNOWN_MODEL in one]
    if not said:
        if entry.name == "StableDiffusionProcessing.extra_result_images":  # the map stands behind them, then
            assert (pictures[0], report, warnings) == (on[0][0], *on[1:])
            return
        assert (pictures, report, warnings) == on, "another picture, and nothing is said of it"
        assert entry.name in UNSEEN or "chroma" in entry.files[0]
        return
    assert entry.name not in UNSEEN
    assert all(one.count(TO_REPORT) <= 1 for one in said)
    guided = {"not applied" not in one for one in report.split("; hires pass: ") if one}
    if True not in guided:
        assert pictures[0] == off[0][0], "said not to be applied"
    # After a switch, and without the axis, it is the picture of another job.
    elif False not in guided and kind not in (REFINER, PLOT) and AS_WORDS not in report:
        assert pictures[0] == on[0][0], "said to be applied"


@pytest.fixture
def started(host, caplog):
    """`started(entry, instead)`: what a start of the WebUI says, its log and the page's text together."""
    import gradio as gr
    from fastapi import FastAPI

    callbacks = host.script_callbacks.callback_map
    before = {event: list(entries) for event, entries in callbacks.items()}

    def start():
        caplog.clear()
        for entries in callbacks.values():
            entries.clear()
        with caplog.at_level(logging.WARNING, "nag"), gr.Blocks() as page:
            script = host.script_loading.load_module(SCRIPT).NagScript()
            script.filename, script.is_txt2img, script.is_img2img = SCRIPT, True, False
            if script.show(False):
                script.ui(False)
            for event, given in (
                ("before_ui", ()), ("ui_settings", ()), ("app_started", (page, FastAPI())),
                ("infotext_pasted", ("", {})),
            ):  # fmt: skip
                for one in callbacks[f"callbacks_{event}"]:
                    one.callback(*given)
            for one in page.fns.values():
                if getattr(one.fn, "__name__", "") in ("counted", "counted_lines"):
                    one.fn("a circle")
        html = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
        return [*caplog.messages, *(one for one in html if one.startswith("NAG: "))]

    yield start
    for event, entries in before.items():
        callbacks[event][:] = entries
    host.script_callbacks.before_ui_callback()


def test_a_start_that_lacks_nothing_says_nothing(started):
    assert started() == []


@pytest.mark.parametrize(("entry", "instead"), cases(AT_START.__contains__))
def test_a_start_says_what_is_gone(host, started, monkeypatch, entry, instead):
    if entry.name == "AxisOption.__init__":
        loaded = {one.script_class.__module__: one.module for one in host.scripts.scripts_data}
        monkeypatch.delattr(loaded["xyz_grid.py"], "AxisOption")
        if instead:
            monkeypatch.setattr(loaded["xyz_grid.py"], "AxisOption", instead, raising=False)
    with lacking(entry, instead):
        said = started()
    assert any(TO_REPORT in one for one in said), said


def test_an_extension_without_its_controls_says_so_on_the_page(host, started, monkeypatch):
    monkeypatch.delattr(host.ui_components, "InputAccordion")
    in_log, on_page = started()
    assert "InputAccordion" in on_page
    assert in_log == on_page.replace("&#x27;", "'")
    assert on_page.startswith("NAG: the controls could not be built: ImportError: ")
    assert on_page.endswith(TO_REPORT)


@pytest.mark.parametrize("name", spared.HOOKS)
def test_a_method_that_the_host_does_not_call_any_more(host, drawn, plain, started, monkeypatch, name):
    off, on = plain(WHOLE)
    runner = type(host.scripts.scripts_txt2img)
    original = runner._call

    def call(self, hook, *args, **named):
        if hook != name:
            original(self, hook, *args, **named)

    monkeypatch.setattr(runner, "_call", call)
    pictures, report, warnings = drawn(WHOLE, JOBS[WHOLE][0])
    assert warnings == []
    unguided = name in ("process", "process_before_every_sampling")
    assert pictures[0] == (off if unguided else on)[0][0]
    if name == "process_before_every_sampling":
        assert report.startswith("not applied: this WebUI never announced a sampling pass; ")
        assert report.endswith(TO_REPORT)
    assert (report == on[1]) == (name in OTHERS_DO)
    # What no job can say is said at the start.
    monkeypatch.delattr(host.scripts.Script, name)
    reason = f"this version of the WebUI calls no {name}() of a script, which NAG needs"
    assert started() == [f"NAG: {reason}; {TO_REPORT}"]
