"""What a job does to the host, seen from inside: hooks, caches, callbacks, and what is left afterwards."""

import gc
import weakref

import pytest
import torch

from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT

ON = [{"enabled": True, "scale": 4}]


@pytest.fixture
def model(host, job):
    job()
    return host.shared.sd_model


@pytest.fixture
def sampled_with(host, model):
    """The unet patcher of every denoiser call, as the sampler saw it."""
    seen = []

    def look(params):
        seen.append(params.denoiser.inner_model.inner_model.forge_objects.unet)

    host.script_callbacks.on_cfg_denoiser(look)
    yield seen
    host.script_callbacks.remove_callbacks_for_function(look)


def modifiers(unet):
    return unet.model_options.get("conditioning_modifiers", [])


@pytest.mark.parametrize(
    "nag",
    [[], [False], [{"enabled": False}], [{"scale": 0}], [{"alpha": 0}], [{"start": 1, "end": 1}]],
    ids=str,
)
def test_off_and_standing_aside_leave_the_hosts_own_unet_in_place(job, model, sampled_with, nag):
    job(nag)
    base = model.forge_objects_after_applying_lora.unet
    assert sampled_with
    assert all(unet is base for unet in sampled_with)


def test_on_puts_one_modifier_on_a_clone_and_none_on_the_original(job, model, sampled_with):
    job(ON)
    assert all(len(modifiers(unet)) == 1 for unet in sampled_with)
    assert modifiers(model.forge_objects_after_applying_lora.unet) == []
    assert modifiers(model.forge_objects_original.unet) == []


def test_hires_announces_its_pass_twice_and_still_has_one_modifier(job, sampled_with):
    _, processed = job(ON, enable_hr=True, hr_scale=2, denoising_strength=0.5, hr_cfg=1)
    assert sampled_with
    assert all(len(modifiers(unet)) == 1 for unet in sampled_with)
    assert "hires pass: 7 layers" in processed.infotexts[0]


def test_no_attention_patch_outlives_its_model_call(job, sampled_with):
    job(ON)
    for unet in sampled_with:
        replaces = unet.model_options.get("transformer_options", {}).get("patches_replace", {})
        assert not replaces.get("attn2")


def test_the_negative_is_encoded_once_per_batch_and_pass(host, job, model, monkeypatch):
    encoded = []
    original = type(model).get_learned_conditioning

    def count(self, texts):
        encoded.append(list(texts))
        return original(self, texts)

    monkeypatch.setattr(type(model), "get_learned_conditioning", count)
    job([{"negative": "blue square, counted"}], batch_size=3)
    assert [texts for texts in encoded if "counted" in texts[0]] == [["blue square, counted"]]


def test_keys_and_values_are_projected_once_per_layer_and_pass(job, model):
    from nag_core.hosts.ldm_unet import cross_attention_layers

    calls = []
    handles = [
        layer.to_k.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[0]))
        for layer in cross_attention_layers(model.forge_objects.unet.model.diffusion_model).values()
    ]
    try:
        job([{"negative": "blue"}], batch_size=2)
    finally:
        for handle in handles:
            handle.remove()
    assert calls.count(2) == 7 * 4, "the prompt's keys, by the host: every layer and step"
    assert calls.count(1) == 7, "ours: every layer once, one shared negative"


def test_what_a_pass_held_is_free_after_the_job(job, model, script):
    sessions = []
    for _ in range(2):
        job(ON)
        (modifier,) = modifiers(model.forge_objects.unet)
        sessions.append(modifier.nag_session)
    assert all(session.closed for session in sessions)
    assert all(not session.cache.made for session in sessions)
    assert not script.jobs._jobs


def test_the_job_is_not_kept_alive_by_the_clone_the_host_keeps(job):
    p, _ = job(ON)
    reference = weakref.ref(p)
    del p
    gc.collect()
    assert reference() is None


class ThrownError(RuntimeError):
    pass


@pytest.mark.parametrize("cfg", [1, 7])
def test_an_error_in_the_middle_of_a_step_leaves_everything_as_it_was(job, model, monkeypatch, cfg):
    _, before = job(cfg_scale=cfg)
    network = type(model.forge_objects.unet.model)
    original, calls = network.apply_model, []

    def apply_model(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise ThrownError
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(network, "apply_model", apply_model)
        with pytest.raises(ThrownError):
            job(ON, cfg_scale=cfg)
    _, after = job(cfg_scale=cfg)
    assert after.images[0].tobytes() == before.images[0].tobytes()
    assert after.infotexts == before.infotexts


@pytest.fixture
def failed(job, model, monkeypatch):
    """The exception of a job that failed while it was sampled; its traceback holds the job."""

    def apply_model(self, *args, **kwargs):
        raise ThrownError

    with monkeypatch.context() as patched:
        patched.setattr(type(model.forge_objects.unet.model), "apply_model", apply_model)
        with pytest.raises(ThrownError) as raised:
            job(ON)
    return raised.value


def test_a_job_that_ended_in_an_error_is_let_go_at_the_next_one(failed, job, script):
    """`postprocess` is not reached after an exception, and the pass was not closed."""
    assert len(script.jobs._jobs) == 1
    job()
    assert not script.jobs._jobs


def test_a_job_that_failed_is_let_go_as_soon_as_nothing_holds_it(failed, script):
    """Its keys and values waited for the next job of the same tab."""
    failed.__traceback__ = None
    gc.collect()
    assert not script.jobs._jobs


def test_an_encoder_that_fails_costs_the_guidance_and_is_reported(job, model, monkeypatch):
    from nag_core.hosts import encoding

    def fail(*args):
        raise ValueError("no such token")

    monkeypatch.setattr(encoding, "encode", fail)
    _, plain = job()
    p, processed = job([{"negative": "blue"}])
    assert processed.images[0].tobytes() == plain.images[0].tobytes()
    assert "not applied: ValueError: no such token" in processed.infotexts[0]
    assert any("no such token" in comment for comment in p.comments)


def test_a_model_without_cross_attention_is_named(job, monkeypatch):
    from nag_core.hosts import model as loaded

    monkeypatch.setattr(loaded, "cross_attention_layers", lambda network: {})
    _, processed = job(ON)
    assert "has no attention over text that NAG knows" in processed.infotexts[0]


def test_requested_values_are_in_params_txt_which_is_written_before_sampling(host, job):
    """PAG's extension and PR #44 write later: "read last parameters" loses their values."""
    from pathlib import Path

    job([{"enabled": True, "scale": 3.5}])
    text = Path(host.paths.data_path, "params.txt").read_text(encoding="utf8")
    assert "NAG scale: 3.5" in text
    assert "NAG report" not in text


def test_a_neighbouring_xyz_cell_leaves_no_infotext_behind(host, job, script):
    """XYZ copies p shallowly: all cells share one dict of parameters."""
    p, _ = job(ON)
    shared = p.extra_generation_params
    assert "NAG scale" in shared
    script.process(p, False)
    assert not any(key.startswith("NAG") for key in shared)


def test_nothing_is_put_on_p(host, job, script):
    """sd-webui-distributed deep-copies and serialises the whole of p.__dict__."""
    plain, _ = job()
    guided, _ = job(ON)
    assert set(vars(guided)) == set(vars(plain))


def test_the_comment_under_the_picture_is_the_report(job):
    p, processed = job(ON)
    (comment,) = [comment for comment in p.comments if comment.startswith("NAG")]
    assert comment.startswith("NAG: 7 layers × 4/4 steps")
    assert comment.removeprefix("NAG: ") in processed.infotexts[0]


def test_the_accordion_can_be_built_any_number_of_times(host, script):
    import gradio as gr

    for _ in range(3):
        with gr.Blocks():
            components = script.ui(False)
        assert components.pop(OVERRIDES_SLOT).visible is False
        assert [c.label for c in components] == [field.label for field in FIELDS]
        assert [c.value for c in components] == [field.default for field in FIELDS]
        assert len(script.infotext_fields) == len(script.paste_field_names) == len(FIELDS)


def test_both_tabs_get_the_same_reader_objects_so_that_send_to_carries_them(host, script):
    import gradio as gr

    (other,) = [s for s in host.scripts.scripts_img2img.alwayson_scripts if s.title() == "NAG"]
    with gr.Blocks():
        script.ui(False), other.ui(True)
    assert other is not script
    assert all(a is b for a, b in zip(script.paste_field_names, other.paste_field_names, strict=True))
    assert [reader for _, reader in other.infotext_fields] == script.paste_field_names


def test_every_control_has_an_own_id(script):
    import gradio as gr

    with gr.Blocks():
        ids = [component.elem_id for component in script.ui(False)]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("script_") for name in ids)


def test_a_second_job_object_run_inside_the_first_does_not_end_it(host, job, script):
    """ADetailer runs process and postprocess on copies of p in the middle of a job."""
    from copy import copy

    from nag_core.settings.parse import parse
    from nag_core.webui.job import Job

    def process_images(p):
        script.jobs.start(p, Job.of(parse(ON)))
        inner = copy(p)
        script.process(inner, {"enabled": True})
        script.postprocess(inner, None)
        assert script.jobs.of(p) is not None
        assert script.jobs.of(inner) is None

    process_images(job()[0])


def test_generation_is_the_same_in_whatever_order_jobs_came(job):
    _, first = job(ON)
    job([{"scale": 9}], cfg_scale=7)
    _, again = job(ON)
    assert torch.equal(_pixels(first), _pixels(again))


def _pixels(processed):
    return torch.tensor(list(processed.images[0].tobytes()))
