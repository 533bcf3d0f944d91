"""The authors' two streams take the network's place in the same job, so that pictures can be compared."""

import pytest
import torch

pytest.importorskip("scipy", reason="the evaluation belongs to the sandbox's environment (webui4)")

from nag_core.evaluate.toy import pooled
from nag_core.evaluate.toy.pairs import BUILT_IN
from nag_core.evaluate.toy.plan import Row
from nag_core.sandbox.model.miniature import POOLED


@pytest.fixture
def sandbox(app, host):
    """With the variant for the time of a test."""
    from modules.shared_cmd_options import cmd_opts

    before, made = cmd_opts.weights, pooled.Sandbox(app)
    made.use(POOLED)
    yield made
    cmd_opts.weights = before


def network(sandbox):
    from modules import sd_models

    sd_models.prepare()
    engine = sd_models.model_data.prepared[sandbox.checkpoints["mmdit"]]
    return engine.forge_objects.unet.model.diffusion_model


def pixels(sandbox, method):
    row = Row("mmdit", method, 2, 4.0, 2.5, 0.5, 1.0)
    pictures, _ = sandbox.row(row, BUILT_IN[0], 7, 2)
    return torch.stack([torch.tensor(list(picture.getdata())).float() for picture in pictures])


def test_both_rules_draw_the_same_pictures_where_the_vector_says_nothing_and_others_where_it_does(sandbox):
    """The extension's pictures through the API, to one of 255 levels: the same noise, sampler and rule."""
    apart = (pixels(sandbox, "nag") - pixels(sandbox, pooled.TWO_STREAMS)).abs()
    assert apart.max() > 8
    last = network(sandbox).vector_in[-1].weight
    kept = last.clone()
    try:
        last.zero_()
        same = (pixels(sandbox, "nag") - pixels(sandbox, pooled.TWO_STREAMS)).abs()
        assert same.max() <= 1
        assert (pixels(sandbox, "nag") - pixels(sandbox, "none")).abs().max() > 8
    finally:
        last.copy_(kept)
    assert "forward" not in vars(network(sandbox))
