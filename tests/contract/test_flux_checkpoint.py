"""The sandbox's MM-DiT checkpoint: the joint attention's way from the accordion's values to the picture."""

import pytest

ON = [True, "Custom", 4.0, 2.5, 0.5]
FLUX = {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}
BLOCKS = "2 double + 3 single blocks"


def pixels(processed):
    return [picture.tobytes() for picture in processed.images]


def test_nag_acts_in_every_block_of_every_step_and_is_gone_afterwards(job, host):
    before = pixels(job(**FLUX)[1])
    guided = job(ON, **FLUX)[1]
    assert f"{BLOCKS} × 4/4 steps" in guided.infotexts[0]
    assert "LSE merge" in guided.infotexts[0]
    assert pixels(guided) != before
    assert pixels(job(**FLUX)[1]) == before
    import backend.attention
    import backend.nn.flux

    assert backend.nn.flux.attention_function is backend.attention.attention_pytorch


def test_auto_takes_fluxs_row(job):
    text = job([True], **FLUX)[1].infotexts[0]
    assert "NAG scale: 4" in text
    assert "NAG alpha: 0.25" in text


def test_a_job_without_the_override_draws_with_the_unet_again(job, host):
    unet = pixels(job()[1])
    flux = pixels(job(**FLUX)[1])
    assert flux != unet
    assert pixels(job()[1]) == unet


def test_an_unknown_checkpoint_leaves_the_one_of_the_settings(job):
    assert pixels(job(override_settings={"sd_model_checkpoint": "none"})[1]) == pixels(job()[1])


@pytest.mark.parametrize("cfg", [1, 5])
def test_a_picture_is_the_same_alone_and_in_a_batch_with_other_negatives(job, cfg):
    negatives = ["red", "framed on tan " + "pretty " * 20, ""]
    shared = {**FLUX, "cfg_scale": cfg, "prompt": ["a circle"] * 3, "width": 128}
    alone = [
        pixels(job(ON, **FLUX, cfg_scale=cfg, width=128, seed=seed, negative_prompt=negative)[1])[0]
        for seed, negative in zip((1, 2, 3), negatives, strict=True)
    ]
    if cfg == 1:  # beside CFG the host itself refuses negatives of unequal length in one batch
        together = job(ON, **shared, seed=[1, 2, 3], negative_prompt=negatives, batch_size=3)[1]
        assert [close(a, b) for a, b in zip(pixels(together), alone, strict=True)] == [True] * 3
    equal = job(ON, **shared, seed=[1, 2, 3], negative_prompt=["red"] * 3, batch_size=3)[1]
    assert close(pixels(equal)[0], alone[0])


def close(one, other):
    """Up to the rounding of a larger matrix product."""
    return len(one) == len(other) and max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_prompt_editing_in_the_negative_ends_the_guidance_where_it_runs_empty(job):
    text = job(ON, **FLUX, negative_prompt="[red::0.5]")[1].infotexts[0]
    assert f"{BLOCKS} × 3/4 steps" in text


def test_and_prompts_and_hires_are_guided_whole(job):
    both = job(ON, **FLUX, prompt="a circle AND a square", cfg_scale=5)[1]
    assert f"{BLOCKS} × 4/4 steps" in both.infotexts[0]
    hires = job(
        ON, **FLUX, enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.6, hr_cfg=1
    )[1]
    assert "hires pass: " + BLOCKS in hires.infotexts[0]


def test_an_empty_negative_stands_aside(job):
    plain = pixels(job(**FLUX, negative_prompt="")[1])
    aside = job(ON, **FLUX, negative_prompt="")[1]
    assert "the negative prompt is empty" in aside.infotexts[0]
    assert pixels(aside) == plain
