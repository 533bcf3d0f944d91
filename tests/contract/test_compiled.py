"""torch.compile around the denoiser: NAG's steps run uncompiled, every other one as it does without NAG."""

from functools import wraps
from types import SimpleNamespace

import pytest
import torch

from nag_core.hosts import which
from nag_core.hosts.compiled import RUNS_UNCOMPILED
from nag_core.hosts.patcher.forge import Forge
from nag_core.hosts.patcher.neo import Neo
from tests.extras import often

ON = [{"enabled": True, "scale": 4}]
UNET, FLUX = {}, {"override_settings": {"sd_model_checkpoint": "tiny-shapes-flux"}}


class Host(Neo):
    """Neo's adapter, with the sandbox's networks."""

    joint_model, cross_model, weights = Forge.joint_model, Forge.cross_model, Forge.weights


def as_neo(model, seen, monkeypatch, **how):
    """As Forge Neo's own script: a compiled network in each call, whose guards skip the patches. torch takes
    the filter out of these options, so that only the first network has it.
    """

    def filtered(guards):
        seen.filtered = True
        return ["transformer_options" not in one.name for one in guards]

    plain, options = model.apply_model, {"guard_filter_fn": filtered}

    @wraps(plain)
    def apply_model(*args, **kwargs):
        written = model.diffusion_model
        model._modules["diffusion_model"] = torch.compile(written, options=options, **how)
        try:
            return plain(*args, **kwargs)
        finally:
            model._modules["diffusion_model"] = written

    # Of the object alone: undone, setattr would leave the class's method on it.
    monkeypatch.setitem(vars(model), "_orig_apply_model", plain)
    monkeypatch.setitem(vars(model), "apply_model", apply_model)


def as_reforge(model, seen, monkeypatch, **how):
    """As reForge's --torch-compile: a compiled network in the network's place."""
    monkeypatch.setitem(model._modules, "diffusion_model", torch.compile(model.diffusion_model, **how))


@pytest.fixture
def compiling(host, job, monkeypatch):
    """`compiling(how, fields)`: the model of such a job is compiled, and counts graphs made and run."""
    monkeypatch.setattr(which, "detect", Host)

    def begin(how, fields):
        job(**fields)
        seen = SimpleNamespace(made=0, ran=0, filtered=False)

        def backend(graph, inputs, **options):
            seen.made += 1

            def run(*args):
                seen.ran += 1
                return graph.forward(*args)

            return run

        model = host.shared.sd_model.forge_objects.unet.model
        how(model, seen, monkeypatch, backend=backend, dynamic=False)
        return seen

    torch._dynamo.reset()
    yield begin
    torch._dynamo.reset()


def draw(job, nag=(), **fields):
    _, processed = job(nag, **fields)
    return processed.images[0].convert("RGB").tobytes(), processed.infotexts[0]


@pytest.mark.parametrize(
    ("how", "fields"),
    often([(as_neo, UNET), (as_neo, FLUX), (as_reforge, UNET)], (as_neo, UNET)),
    ids=["Neo", "Neo, Flux", "reForge"],
)
def test_a_compiled_model_is_guided_uncompiled_and_nothing_of_it_stays_in_its_graphs(
    job, compiling, how, fields
):
    """NAG stood aside on Neo, or was baked into the graphs of later jobs."""
    jobs = [{**fields, "negative_prompt": text} for text in ("red", "framed on tan")]
    wanted = [draw(job, ON, **one)[0] for one in jobs]
    graphs = compiling(how, fields)
    assert draw(job, ON, **jobs[0])[0] == wanted[0]
    assert vars(graphs) == {"made": 0, "ran": 0, "filtered": False}
    off = draw(job, **fields)
    made, ran = graphs.made, graphs.ran
    assert ran
    assert graphs.filtered is (how is as_neo), "a guided job came first and used the filter up"
    for one, picture in zip(jobs, wanted, strict=True):
        found, text = draw(job, ON, **one)
        assert found == picture != off[0]
        assert f'{RUNS_UNCOMPILED}", NAG applied: fully' in text
        assert "× 4/4 steps" in text
    assert (graphs.made, graphs.ran) == (made, ran), "compiled code ran, or was made, under NAG"
    assert "× 2/4 steps" in draw(job, [{**ON[0], "end": 0.5}], **fields)[1]
    assert (graphs.made, graphs.ran) == (made, ran * 3 / 2), "the steps outside the window are compiled ones"
    assert draw(job, **fields) == off
    assert (graphs.made, graphs.ran) == (made, ran * 5 / 2)
