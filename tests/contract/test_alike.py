"""A negative that the encoder turned into the prompt's own conditioning: there is nothing to steer away from.

On SD.Next the prompt itself was encoded as the negative, and the report claimed success.
"""

import pytest

SAME = "prompt and negative gave the same conditioning"
ON = [{"enabled": True, "scale": 4}]
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1}


def report(drawn):
    return drawn[0].extra_generation_params["NAG report"]


def pixels(drawn):
    return [image.tobytes() for image in drawn[1].images]


@pytest.mark.parametrize("cfg", [1, 4])
@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a circle", "a circle"),
        ("a circle", "  a   circle\n"),
        ("a circle<lora:none:1>", "a circle"),
        ("[a circle:a square:0.5]", "[a circle :a  square:0.5]"),
        ("a circle AND a circle", "a circle,"),
    ],
    ids=["the same text", "blanks", "a network tag", "schedules", "AND"],
)
def test_texts_that_come_out_the_same_stand_aside(job, prompt, negative, cfg):
    texts = {"prompt": prompt, "negative_prompt": negative, "cfg_scale": cfg}
    on = job(ON, **texts)
    assert report(on) == f"not applied: {SAME}"
    assert pixels(on) == pixels(job(**texts))


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a circle", "a red circle"),
        ("[a circle:a square:0.5]", "a circle"),
        ("a circle AND a square", "a circle"),
    ],
    ids=["one word more", "the same for a part of the steps", "one part of AND"],
)
def test_texts_that_differ_anywhere_are_guided(job, prompt, negative):
    assert "7 layers × 4/4 steps" in report(job(ON, prompt=prompt, negative_prompt=negative))


def test_nasa_stands_aside_too(job):
    """It would only scale the picture's attention."""
    on = job([{"scale": 4, "method": "NASA"}], prompt="a circle", negative_prompt="a  circle")
    assert report(on) == f"not applied: {SAME}"


def test_an_encoder_that_returns_the_prompts_conditioning_is_found_out(host, job, monkeypatch):
    job()
    original = host.prompt_parser.get_learned_conditioning

    def wrong(model, prompts, *more):
        if getattr(prompts, "is_negative_prompt", False):
            prompts = host.prompt_parser.SdConditioning(["a circle"] * len(prompts), copy_from=prompts)
        return original(model, prompts, *more)

    monkeypatch.setattr(host.prompt_parser, "get_learned_conditioning", wrong)
    on = job(ON, prompt="a circle", negative_prompt="red")
    assert report(on) == f"not applied: {SAME}"
    assert pixels(on) == pixels(job(prompt="a circle", negative_prompt="red"))


def test_only_the_images_with_another_negative_are_guided(host, prepared):
    def drawn(nag, prompts, negatives):
        with prepared(nag, prompt=prompts, negative_prompt=negatives, batch_size=len(prompts)) as p:
            return p, host.processing.process_images(p)

    prompts = ["a circle", "a circle", "a circle"]
    on = drawn(ON, prompts, ["red", "a  circle", ""])
    off = drawn([], prompts, ["red", "a  circle", ""])
    changed = [one != other for one, other in zip(pixels(on)[-3:], pixels(off)[-3:], strict=True)]
    assert changed == [True, False, False]
    assert f"1 of 3 images (1 with an empty negative, 1 where {SAME})" in report(on)
    nobody = drawn(ON, prompts[:2], ["a circle ", ""])
    assert report(nobody) == f"not applied: 1 with an empty negative, 1 where {SAME}"


def test_each_pass_of_a_hires_job_is_compared_with_its_own_prompt(job):
    said = report(job(ON, prompt="a circle", negative_prompt="a square", hr_prompt="a  square", **HIRES))
    assert "first pass: 7 layers" in said
    assert f"hires pass: not applied: {SAME}" in said


def test_several_negatives_stand_aside_only_where_each_is_the_prompt(job):
    def of(negatives):
        return report(job([{"scale": 4, "negatives": negatives}], prompt="a circle"))

    assert of("a circle :: 1\n a  circle :: 2") == f"not applied: {SAME}"
    assert "2 negatives" in of("a circle :: 1\nred :: 2")
