"""What a picture's parameters say draws that picture again, to the pixel, whatever it was asked for with."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from nag_core.identity import VERSION
from nag_core.settings import presets
from nag_core.settings.families import FAMILIES
from nag_core.settings.parse import FIELDS, OVERRIDES_SLOT
from nag_core.webui import infotext
from nag_core.webui.foreign_infotext import translate

ON = {"enabled": True, "scale": 4, "alpha": 0.5}
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1, "hr_second_pass_steps": 3}
CHECKPOINTS = ("tiny-shapes", "tiny-shapes-flux")


@pytest.fixture
def styles(host, monkeypatch):
    """`styles(name=(prompt, negative))` puts styles into the host's list until the test ends."""
    from modules.styles import PromptStyle

    known = {}
    monkeypatch.setattr(host.shared.prompt_styles, "styles", known)

    def add(**texts):
        known.update({name: PromptStyle(name, *both) for name, both in texts.items()})
        return list(texts)

    return add


@pytest.fixture
def again(host, job):
    """`again(infotext, **fields)`: the job that pasting this text asks for, drawn."""
    utils, callbacks = host.infotext_utils, host.script_callbacks

    def draw(text, **fields):
        pasted = utils.parse_generation_parameters(text, [])
        callbacks.infotext_pasted_callback(text, pasted)
        nag = [infotext.READERS[field.name](pasted) for field in FIELDS]
        nag.insert(OVERRIDES_SLOT, "")
        fields = {
            "prompt": pasted["Prompt"], "negative_prompt": pasted["Negative prompt"],
            "seed": int(pasted["Seed"]), "steps": int(pasted["Steps"]),
            "hr_prompt": pasted.get("Hires prompt", ""),
            "hr_negative_prompt": pasted.get("Hires negative prompt", ""), **fields,
        }  # fmt: skip
        return job(nag, **fields)[1]

    return draw


@pytest.fixture(params=CHECKPOINTS)
def redrawn(request, job, again):
    """`redrawn(nag, **fields)`: draws the job, and each picture again alone from its parameters; their texts.
    same: what the parameters do not bring back here, though they name it.
    """
    there = {"override_settings": {"sd_model_checkpoint": request.param}, "width": 64, "height": 64}

    def run(nag, same=None, **fields):
        _, drawn = job([nag], **there, **fields)
        _, off = job([], **there, **fields)
        same = {**there, **(same or {})}
        results = drawn.images[: len(off.images)]
        for picture, text, plain in zip(results, drawn.infotexts, off.images, strict=False):
            one = again(text, **same)
            assert one.images[0].tobytes() == picture.tobytes(), text
            assert asked(one.infotexts[0]) == asked(text)
            assert picture.tobytes() != plain.tobytes(), "or nothing is tried"
        return drawn.infotexts[: len(results)]

    return run


def asked(text):
    """What was asked for: the report behind it speaks of the whole batch."""
    return text.partition(", NAG report: ")[0]


def half():
    with io.BytesIO() as buffer:
        picture = Image.new("L", (64, 64), 0)
        picture.paste(255, (0, 0, 32, 64))
        picture.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode()


NEGATIVES = [
    {}, {"negative": "red"}, {"negatives": "red\nframed :: 0.5"}, {"negative": "[blue:red:0.5]"},
    {"negative": "red # a comment"}, {"negative": "red<lora:none:1>"}, {"negative": "NAG negative"},
    {"negatives": "red :: 2"}, {"negatives": "NAG negatives"},
]  # fmt: skip
STYLES = ["dark {prompt} framed", "framed\nblue", "gray :: 3"]


@pytest.mark.parametrize(
    ("nag", "style"),
    [*((nag, "blue") for nag in NEGATIVES), *((nag, style) for nag in NEGATIVES[1:3] for style in STYLES)],
    ids=json.dumps,
)
def test_styles_in_prompt_and_negative(redrawn, styles, nag, style):
    """The NAG box was drawn with the styles, and recorded without them."""
    (text,) = redrawn({**ON, **nag}, styles=styles(mine=("on gray", style), other=("", "")))
    assert "on gray" in text


def test_what_was_used_is_what_is_recorded(job, styles):
    _, drawn = job([{**ON, "negative": "red"}], styles=styles(mine=("", "blue")))
    _, plain = job([{**ON, "negative": "red, blue"}], negative_prompt="red, blue")
    assert 'NAG negative: "red, blue"' in drawn.infotexts[0]
    assert drawn.images[0].tobytes() == plain.images[0].tobytes()


def test_a_negative_that_styles_make_of_nothing_but_a_tag(redrawn, styles):
    (text,) = redrawn({**ON, "negative": "<lora:none:1>"}, styles=styles(mine=("", "blue")))
    assert "NAG negative: " in text


@pytest.mark.parametrize(
    ("nag", "fields"),
    [
        ({"negatives": "red :: 0.3\nblue square :: 2\nframed"}, {}),
        ({"negatives": "red :: 0\nblue, dark: very"}, {}),
        ({"negative": "[red:blue:0.5], (framed:1.3)"}, {}),
        ({}, {"negative_prompt": "[red:blue:2]", "prompt": "[a circle:a square:0.5]"}),
        ({"mask": "Inside", "mask_image": half(), "mask_feather": 4}, {}),
        ({"curve": "0:8, 0.5:2"}, {}),
        ({"curve": "cosine", "end": 0.75}, {"cfg_scale": 4}),
        ({"heat_map": True}, {}),
    ],
    ids=str,
)
def test_settings_of_one_pass(redrawn, nag, fields):
    redrawn({**ON, **nag}, **fields, same={key: fields[key] for key in ("cfg_scale",) if key in fields})


@pytest.mark.parametrize(
    ("nag", "fields"),
    [
        ({}, {"hr_negative_prompt": "blue square"}),
        ({"hires_scale": 8}, {}),
        ({"hires_tau": 1.5, "hires_alpha": 0.75}, {}),
        ({"negative": "framed", "hires": "Hires only"}, {"hr_negative_prompt": "blue"}),
    ],
    ids=str,
)
def test_hires_negatives(redrawn, nag, fields):
    redrawn({**ON, **nag}, same=HIRES, **HIRES, **fields)


@pytest.mark.parametrize("nag", [{}, {"curve": "linear"}, {"heat_map": True}], ids=str)
def test_a_negative_each_in_a_batch(redrawn, nag):
    """Pictures of a batch and single ones differ by the host's own rounding; here they do not."""
    texts = redrawn(
        {**ON, **nag}, prompt=["a circle"] * 4, negative_prompt=["red", "blue", "red framed", "on gray"],
        batch_size=2, n_iter=2, seed=[1, 2, 3, 4],
    )  # fmt: skip
    assert len(texts) == 4


# Wildcards


class Wildcards:
    """As the WebUI author's extension: a line by the seed, in what stands in `all_negative_prompts`."""

    name, args_from, args_to, alwayson = "simple wildcards", 0, 0, True
    sorting_priority, filename = 0, "wildcards.py"
    words = ("red", "blue square", "on gray", "framed")

    def __init__(self):
        self.seen = []

    def replace_wildcard(self, text, seed):
        return text.replace("__colour__", self.words[seed % len(self.words)])

    def process(self, p, *args):
        self.seen.append(list(p.all_negative_prompts))
        for name in ("all_prompts", "all_negative_prompts"):
            texts = zip(getattr(p, name), p.all_seeds, strict=True)
            setattr(p, name, [self.replace_wildcard(text, seed) for text, seed in texts])
        p.extra_generation_params["Wildcard negative prompt"] = p.negative_prompt
        p.comment("wildcards were drawn")


@pytest.fixture
def wildcards(host, monkeypatch):
    runner = host.scripts.scripts_txt2img
    base = host.scripts.Script
    kind = type("Drawing", (Wildcards, base), {"__module__": "wildcards.py"})
    monkeypatch.setattr(runner, "alwayson_scripts", [*runner.alwayson_scripts, kind()])
    return runner.alwayson_scripts[-1]


BATCH = {"batch_size": 2, "n_iter": 2, "seed": 4}


def test_wildcards_in_the_own_box_are_drawn_as_those_of_the_main_one(job, wildcards):
    main, drawn = job([ON], negative_prompt="__colour__", **BATCH)
    assert len(set(main.all_negative_prompts)) == 4, "one for each seed"
    p, own = job([{**ON, "negative": "__colour__"}], **BATCH)
    assert [image.tobytes() for image in own.images] == [image.tobytes() for image in drawn.images]
    assert [text.split("NAG negative: ")[1].split(",")[0] for text in own.infotexts] == [
        "red", "blue square", "on gray", "framed",
    ]  # fmt: skip
    assert p.all_negative_prompts == ["red"] * 4, "the main one is left alone"
    assert "Wildcard negative prompt: red" in own.infotexts[0], "and so is what the extension says of it"


def test_pictures_with_wildcards_are_drawn_again_from_their_parameters(redrawn, wildcards):
    texts = redrawn({**ON, "negative": "__colour__, on gray"}, **BATCH)
    assert len({text.split("NAG negative: ")[1] for text in texts}) == 4


def test_texts_that_are_made_before_a_batch_ends_have_their_own_wildcards(host, job, wildcards, monkeypatch):
    """From the second batch on they had none, and the host's log a traceback: it counts all batches there."""
    kind, texts = host.processing.StableDiffusionProcessingTxt2Img, []
    sample = kind.sample

    def noting(p, *args, **kwargs):
        samples = sample(p, *args, **kwargs)
        every = p.all_prompts, p.all_seeds, p.all_subseeds
        where = [{"iteration": p.iteration, "position_in_batch": image} for image in range(len(p.prompts))]
        texts.extend(host.processing.create_infotext(p, *every, **one) for one in where)
        return samples

    monkeypatch.setattr(kind, "sample", noting)
    _, drawn = job([{**ON, "negative": "__colour__"}], **BATCH)
    early, late = ([text.split("NAG negative: ")[1:] for text in found] for found in (texts, drawn.infotexts))
    assert early == late
    assert len({text for (text,) in late}) == 4


def test_a_wildcard_whose_first_draw_is_empty_is_not_replaced_by_the_default_negative(
    job, wildcards, options, monkeypatch
):
    monkeypatch.setattr(wildcards, "words", ("", "red", "blue", "framed"))
    asked = [{**ON, "negative": "__colour__"}]
    _, wanted = job(asked, negative_prompt="", **BATCH)
    options(nag_default_negative="on gray")
    _, found = job(asked, negative_prompt="", **BATCH)
    assert found.infotexts == wanted.infotexts
    assert "NAG negative: red" in found.infotexts[1]


def test_several_negatives_with_a_wildcard_have_the_first_pictures(redrawn, wildcards):
    for text in redrawn({**ON, "negatives": "__colour__ :: 2\nframed"}, batch_size=2, seed=5):
        assert "blue square :: 2" in text


def test_without_a_wildcard_nobody_is_asked(job, wildcards):
    job([{**ON, "negative": "blue"}])
    assert len(wildcards.seen) == 1


def test_an_extension_that_fails_costs_its_wildcards_and_that_is_said(job, wildcards, monkeypatch):
    def fail(text, seed):
        raise OSError("no such folder")

    monkeypatch.setattr(wildcards, "replace_wildcard", fail, raising=False)
    _, drawn = job([{**ON, "negative": "__colour__ framed"}])
    assert "wildcards in the NAG negative could not be drawn (no such folder)" in drawn.infotexts[0]
    assert "NAG negative: __colour__ framed" in drawn.infotexts[0]


def test_styles_that_the_host_cannot_apply_cost_the_styles_and_not_the_guidance(host, job, monkeypatch):
    def apply(text, styles):
        if text == "blue":
            raise KeyError("mine")
        return text

    monkeypatch.setattr(host.shared.prompt_styles, "apply_negative_styles_to_prompt", apply, raising=False)
    p, _ = job([{**ON, "negative": "blue"}])
    report = p.extra_generation_params["NAG report"]
    assert report.startswith("7 layers × 4/4 steps")
    assert "styles and wildcards in the NAG negative are read as words ('mine')" in report


# Styles that the host takes out of a pasted prompt and chooses again


@pytest.mark.parametrize(
    ("recorded", "box"),
    [
        ("red, blue", "red"), ("blue", ""), ("red", "red"), ("dark red framed, blue", "red"),
        ("blue, red", "blue, red"),
    ],
)  # fmt: skip
def test_the_box_is_filled_without_the_styles_that_the_host_has_chosen(styles, recorded, box):
    """On the page and in what the API's png-info gives; live on Forge main that had the style twice."""
    chosen = styles(first=("", "dark {prompt} framed") if "dark" in recorded else ("", ""), mine=("", "blue"))

    def pasted(key, text, chosen):
        parameters = {"NAG scale": "4", key: text, "Styles array": chosen}
        translate("", parameters)
        return parameters

    assert pasted("NAG negative", recorded, chosen)["NAG negative"] == box
    assert infotext.READERS["negative"](pasted("NAG negative", recorded, chosen)) == box
    lines = f"{recorded} :: 2\nframed, blue"
    if recorded == "red, blue":
        found = infotext.READERS["negatives"](pasted("NAG negatives", lines, ["mine"]))
        assert found == "red :: 2.0\nframed :: 1.0"
    assert infotext.READERS["negatives"](pasted("NAG negatives", lines, [])) == lines


# Older versions, and tables that change


# Parameters as versions without `NAG version` wrote them, and what the controls become.
OLD = json.loads(
    (Path(__file__).parents[1] / "payloads" / "infotexts" / "unversioned.json").read_text(encoding="utf-8")
)


@pytest.fixture
def loaded_as(monkeypatch):
    """`loaded_as("Z-Image")`: what NAG takes the sandbox's model for until the test ends."""
    from nag_core.hosts import model

    return lambda name: monkeypatch.setattr(model, "family", lambda sd_model: name)


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["about"])
@pytest.mark.parametrize("family", ["", "Z-Image", "Anima"])
def test_a_picture_of_an_older_version_is_redrawn_with_its_values(job, again, loaded_as, old, family):
    """Whatever row Auto has for the model by now, an End with it included."""
    if family:
        loaded_as(family)
    fields = {"width": 64, "height": 64}
    one = again(old["infotext"], **fields)
    wanted = old["nag"]
    _, spelt = job([wanted], seed=5, **fields)
    assert one.images[0].tobytes() == spelt.images[0].tobytes()
    for name in presets.STRENGTHS:
        assert f"NAG {name}: {wanted[name]:g}, " in one.infotexts[0]
    assert (f"NAG end: {wanted['end']}" in one.infotexts[0]) is (wanted["end"] < 1)
    assert f"NAG version: {VERSION}" in one.infotexts[0]
    assert "Auto" not in one.infotexts[0]


def test_a_preset_whose_values_have_changed_comes_back_as_the_pictures_values(job, again, monkeypatch):
    _, drawn = job([{"preset": "Flux"}], width=64, height=64)
    assert "NAG preset: Flux" in drawn.infotexts[0]
    monkeypatch.setitem(presets.TABLE_5, "Flux", presets.Strength(1.0, 2.5, 0.5))
    one = again(drawn.infotexts[0], width=64, height=64)
    assert one.images[0].tobytes() == drawn.images[0].tobytes()
    assert "NAG preset" not in one.infotexts[0]


@pytest.mark.parametrize("name", presets.COMMUNITY)
@pytest.mark.parametrize("named", [False, True], ids=["Auto", "by name"])
def test_a_row_of_the_community_is_recorded_and_redrawn_with_its_end(job, again, loaded_as, name, named):
    row, (family,) = presets.COMMUNITY[name], [one.name for one in FAMILIES if one.row == name]
    loaded_as("SD1.5" if named else family)
    _, drawn = job([{"preset": name} if named else {}], width=64, height=64)
    text = drawn.infotexts[0]
    assert f"NAG scale: {row.strength.phi:g}, NAG tau: {row.strength.tau:g}" in text
    assert f"{sum(call / 4 < row.end for call in range(4))}/4 steps" in text
    assert (f"NAG end: {row.end}" in text) is (row.end < 1)
    assert (f"NAG preset: {name}" in text, f"Auto took the values of {name}" in text) == (named, not named)
    loaded_as("Flux")
    assert again(text, width=64, height=64).images[0].tobytes() == drawn.images[0].tobytes()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("Anima", "Few-step took the values of Anima Turbo (community)"),
        ("SD2", "Few-step has no values for this model (SD2) and took SD1.5's"),
    ],
)
def test_few_step_says_whose_values_it_takes_and_keeps_its_own_end(job, loaded_as, family, said):
    loaded_as(family)
    (text,) = job([{"preset": "Few-step"}])[1].infotexts
    assert said in text
    assert "1/4 steps" in text


def test_a_hires_pass_on_a_checkpoint_of_another_family_is_drawn_again(job, again, monkeypatch):
    """Auto takes that family's row for it, and only the report's sentence had the values."""
    from nag_core.hosts import model
    from nag_core.webui import job as jobs

    passes = []
    pass_name = jobs._pass_name
    monkeypatch.setattr(jobs, "_pass_name", lambda p: passes.append(pass_name(p)) or passes[-1])
    with monkeypatch.context() as patched:
        patched.setattr(model, "family", lambda _: "SDXL" if passes[-1:] == ["hires pass"] else "SD1.5")
        _, drawn = job([{"enabled": True}], **HIRES)
    (text,) = drawn.infotexts
    assert "NAG alpha: 0.375" in text
    assert "NAG hires alpha: 0.5" in text
    assert "NAG hires scale" not in text
    redrawn = again(text, **HIRES)
    assert redrawn.images[0].tobytes() == drawn.images[0].tobytes()
