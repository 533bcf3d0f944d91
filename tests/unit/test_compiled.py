"""A compiled model under NAG, on a stand-in of Neo's Wan: what runs, what stays behind, and what is said."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nag_core.hosts.compiled import RUNS_UNCOMPILED
from nag_core.hosts.patcher import modifier
from nag_core.hosts.patcher.neo import Neo
from nag_core.hosts.patcher.unet import Unet
from nag_core.method.negative import Negative, Scheduled
from tests.unit.test_cross_call import WIDTH, WanModel, attention_function, expected, negative, texts
from tests.unit.test_joint import error, normal, session


@pytest.fixture
def model(monkeypatch):
    """As the host's denoiser calls it: `apply_model` around `diffusion_model`. `graphs` counts both ways."""
    module = ModuleType("backend.nn.wan")
    module.attention_function = attention_function
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch._dynamo.reset()

    class Denoiser(torch.nn.Module):
        def apply_model(self, x, timestep, c_crossattn, transformer_options, **more):
            return self.diffusion_model(x, timestep, c_crossattn, normal(len(x), 4, WIDTH, seed=3))

    denoiser = Denoiser()
    denoiser.diffusion_model, denoiser.graphs = WanModel(), SimpleNamespace(made=0, ran=0)
    yield denoiser
    torch._dynamo.reset()


def counting(graphs):
    def backend(graph, inputs):
        graphs.made += 1

        def run(*args):
            graphs.ran += 1
            return graph.forward(*args)

        return run

    return backend


def whole(model):
    model.diffusion_model = torch.compile(model.diffusion_model, backend=counting(model.graphs))


def block_by_block(model):
    for block in model.diffusion_model.blocks:
        block.cross_attn.compile(backend=counting(model.graphs))


def call(model, used=None):
    """A denoiser call of one image, guided for a session: the rows, and the tensors they were made of."""
    network = getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)
    x, context = normal(1, 6, WIDTH, seed=1), texts(network, 1, 7, 2)
    options = {"transformer_options": {}}
    if used is not None:
        used.negative = Negative(((Scheduled(9, negative(network, 9, 5)),),))
        modify = modifier._modifier(Neo(), used, Unet())
        options = modify(model, x, None, None, None, 1.0, options, 0)[6]
    wrapper = options.get(
        "model_function_wrapper", lambda apply, a: apply(a["input"], a["timestep"], **a["c"])
    )
    c = {"c_crossattn": context, "transformer_options": {"cond_or_uncond": [0]}}
    found = wrapper(model.apply_model, {"input": x, "timestep": None, "c": c})
    return found, (network, (x, context, normal(1, 4, WIDTH, seed=3)))


@pytest.mark.parametrize("compile_", [whole, block_by_block])
def test_a_compiled_dit_is_guided_as_it_was_written_and_its_graphs_stay_what_they_were(model, compile_):
    compile_(model)
    plain, (network, tensors) = call(model)
    assert error(plain, expected(network, tensors, [None])) <= 1e-12
    before, used = vars(model.graphs).copy(), session()
    found, _ = call(model, used)
    assert error(found, expected(network, tensors, [negative(network, 9, 5)])) <= 1e-12
    assert vars(model.graphs) == before
    assert used.report().problems == (RUNS_UNCOMPILED,)
    assert used.complete
    assert torch.equal(call(model)[0], plain)
    assert vars(model.graphs) == {"made": before["made"], "ran": 2 * before["ran"]}


@pytest.mark.parametrize("error_", [ZeroDivisionError, KeyboardInterrupt])
def test_what_was_compiled_is_compiled_again_after_an_error_or_an_interrupt(model, error_):
    whole(model)
    plain, (network, _) = call(model)
    made, ran = model.graphs.made, model.graphs.ran

    def fails(*_):
        raise error_

    handle = network.blocks[1].cross_attn.register_forward_pre_hook(fails)
    with pytest.raises(error_):
        call(model, session())
    handle.remove()
    assert torch.equal(call(model)[0], plain)
    assert (model.graphs.made, model.graphs.ran) == (made, 2 * ran)


def test_with_a_pytorch_that_cannot_run_it_uncompiled_the_picture_is_drawn_without_nag(model, monkeypatch):
    whole(model)
    plain, _ = call(model)
    monkeypatch.delattr(torch.compiler, "set_stance")
    used = session()
    assert torch.equal(call(model, used)[0], plain)
    assert used.report().sentence() == (
        "not applied: the model is compiled, and this PyTorch cannot run it uncompiled for a while"
    )
    assert not used.report().bypassed, "it was said to be something to report"


class KeptOut:
    """A layer's forward as Neo's ControlNet-LLLite for Anima puts it there: torch.compile leaves it alone."""

    def __init__(self, layer):
        self.layer = layer

    @torch.compiler.disable
    def forward(self, x):
        return type(self.layer).forward(self.layer, x)


@pytest.mark.parametrize("kept_out", [False, True])
def test_nothing_is_said_of_a_model_that_is_not_compiled(model, monkeypatch, kept_out):
    """A forward that is kept out of compiled code looked like compiled code: with an older PyTorch NAG left
    the job alone.
    """
    monkeypatch.delattr(torch.compiler, "set_stance")
    if kept_out:
        layer = model.diffusion_model.blocks[0].cross_attn.q
        layer.forward = KeptOut(layer).forward
    used = session()
    found, (network, tensors) = call(model, used)
    assert error(found, expected(network, tensors, [negative(network, 9, 5)])) <= 1e-12
    assert used.report().problems == ()
