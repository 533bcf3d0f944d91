"""Beside self-attention guidance (SAG), which has the uncond computed once more, in the prompt's place."""

import pytest
import torch

ON = [{"enabled": True, "scale": 4, "negative": "blue"}]
FLUX = {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}


@pytest.fixture
def sag(host, monkeypatch):
    """SAG's own call behind each step's; [(the prompt's rows, the uncond's) with the options, without]."""
    from backend.sampling import sampling_function as sampling

    own, calls = sampling.sampling_function_inner, []

    def inner(model, x, timestep, uncond, cond, scale, options, *more):
        calls.append(
            tuple(
                tuple(
                    sampling.calc_cond_uncond_batch(model, given, None, x, timestep, one)[0]
                    for given in (cond, uncond)
                )
                for one in (options, {})
            )
        )
        return own(model, x, timestep, uncond, cond, scale, options, *more)

    monkeypatch.setattr(sampling, "sampling_function_inner", inner)
    return calls


@pytest.mark.parametrize("fields", [{}, {"batch_size": 2}, FLUX], ids=["unet", "a batch", "flux"])
def test_the_uncond_in_the_prompts_place_is_not_guided(job, sag, fields):
    """It was guided silently: the host marks the rows of such a call as the prompt's."""
    p, _ = job(ON, cfg_scale=5, **fields)
    assert "4/4 steps" in p.extra_generation_params["NAG report"]
    assert len(sag) == 4
    for (prompt, uncond), (plain_prompt, plain_uncond) in sag:
        assert torch.equal(uncond, plain_uncond)
        assert not torch.allclose(prompt, plain_prompt, atol=1e-3)
