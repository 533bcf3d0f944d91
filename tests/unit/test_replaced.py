"""NAG beside extensions that replace an attention's forward (NegPiP), or guide with a NAG of their own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nag_core.hosts import foreign
from nag_core.hosts.patcher.replaced import patch_replaced
from nag_core.hosts.patcher.step import Step
from nag_core.hosts.replaced import rows_within
from nag_core.method.rows import Batch
from tests import reference
from tests.unit.test_cross import HEADS, KEY, Attention, entry, host_attention, session

EXTRA = 3  # tokens that the stand-in adds


class Layer(Attention):
    """A host's attn2 with its output projection."""

    def __init__(self):
        super().__init__(torch.float64)
        self.heads = HEADS
        self.to_out = nn.Sequential(nn.Linear(20, 20, dtype=torch.float64), nn.Dropout(0.0))


def like_negpip(module, rows_at_once, copies=False):
    """A forward that adds tokens whose values count negative, and goes through the rows in parts. It counts
    its calls, as NegPiP does to tell prompt and uncond apart.
    """
    calls = []

    def forward(x, context=None, **_):
        calls.append(1)
        outs = []
        for part, own in zip(x.split(rows_at_once), context.split(rows_at_once), strict=True):
            text = torch.cat([own, own[:, :EXTRA] * 2], 1)
            k, v = module.to_k(text), module.to_v(text)
            v[:, -EXTRA:] *= -1
            q = module.to_q(part.clone() if copies else part)
            outs.append(module.to_out(host_attention(q, k, v, {"n_heads": HEADS})))
        return torch.cat(outs)

    return forward, calls


def run(module, x, context, marks, used):
    step = Step(used, Batch((entry(dtype=torch.float64),)), "weights")
    wrapper = patch_replaced({}, {KEY: module}, step)["model_function_wrapper"]
    c = {"transformer_options": {"cond_or_uncond": marks}}

    def apply(*_, **__):
        return module(x, context=context)

    return wrapper(apply, {"input": x, "timestep": None, "c": c})


def tensors(rows):
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(rows, n, width, generator=generator).double() for n, width in ((35, 20), (7, 12)))


def expected(module, x, context, row):
    """What the forward computes, with eq. 7-10 on that row: z- is plain attention to the negative."""
    text = torch.cat([context, context[:, :EXTRA] * 2], 1)
    v = module.to_v(text)
    v[:, -EXTRA:] *= -1
    z = reference.attention(module.to_q(x), module.to_k(text), v, HEADS)
    one, negative = slice(row, row + 1), entry(dtype=torch.float64).context[None]
    neg = reference.attention(module.to_q(x[one]), module.to_k(negative), module.to_v(negative), HEADS)
    z[one] = reference.nag(z[one], neg, 4.0, 2.5, 0.5)[0]
    return module.to_out(z)


@pytest.mark.parametrize(
    ("marks", "row", "at_once"), [([1, 0], 1, 1), ([0, 1], 0, 1), ([1, 0], 1, 2), ([0], 0, 1)]
)
def test_negpips_own_forward_is_guided(marks, row, at_once):
    """It was left alone, and NAG did nothing beside NegPiP."""
    module, used = Layer(), session()
    module.forward, calls = like_negpip(module, at_once)
    x, context = tensors(len(marks))
    out = run(module, x, context, marks, used)
    torch.testing.assert_close(out, expected(module, x, context, row), rtol=1e-12, atol=1e-12)
    assert len(calls) == 1
    assert not used.problems
    assert set(used.layers) == {KEY}
    assert not module._forward_pre_hooks
    assert not module.to_q._forward_hooks


def test_a_forward_whose_rows_nobody_can_tell_runs_unguided_and_is_named():
    module, used = Layer(), session()
    code = compile(
        "def forward(x, context=None, **_): return x", "/webui/extensions/their-thing/a.py", "exec"
    )
    found = {}
    exec(code, found)  # as if it stood in an extension's folder
    module.forward = found["forward"]
    x, context = tensors(1)
    assert run(module, x, context, [0], used) is x
    said = "the extension their-thing replaced the forward of some attention layers; those are unguided"
    assert used.report().sentence() == f"not applied: {said}"


def test_copied_rows_are_not_guessed():
    module, used = Layer(), session()
    module.forward, _ = like_negpip(module, 1, copies=True)
    x, context = tensors(2)
    plain = module(x, context=context)
    assert torch.equal(run(module, x, context, [1, 0], used), plain)
    assert "another extension replaced the forward" in used.report().sentence()


def test_a_failure_of_ours_leaves_their_result():
    module, used = Layer(), session()
    module.forward, _ = like_negpip(module, 1)
    del module.heads
    x, context = tensors(1)
    assert run(module, x, context, [0], used).shape == x.shape
    assert used.report().sentence().startswith("not applied: AttributeError in some layers")


def test_rows_of_a_view():
    whole = torch.arange(24.0).reshape(4, 3, 2)
    assert rows_within(whole, whole) == slice(0, 4)
    assert [rows_within(part, whole) for part in whole.chunk(2)] == [slice(0, 2), slice(2, 4)]
    for other in (
        whole.clone(),
        whole[:, 1:],
        whole[::2],
        whole[..., :1],
        whole.transpose(1, 2),
        whole.flip(0),
    ):
        assert rows_within(other, whole) is None


def test_a_forward_inside_a_block_is_found_and_a_linears_is_not():
    block = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(2, 2)})})
    block["attn"]["qkv"].forward = lambda x: x
    assert foreign.replaced_within([block]) is None
    block["attn"].forward = theirs = lambda x: x
    assert foreign.replaced_within([block]) is theirs


def test_what_torch_compile_put_there_is_nobody_elses():
    """A model compiled block by block was left alone, as another extension's."""

    class Own(Layer):
        def forward(self, x):
            return x

    block = nn.ModuleDict({"attn": Own(), "wrapped": torch.compile(Own())})
    block["attn"].forward = torch.compile(block["attn"].forward)
    assert foreign.replaced_within([block]) is None

    def theirs(x):
        return x

    block["attn"].forward = torch.compile(theirs)
    assert foreign.replaced_within([block]) is theirs


def manager(managed, onagain):
    return managed


def test_another_nag_in_the_model_is_said_to_double_the_guidance():
    def make_patch(nag_scale, nag_tau):
        return lambda out, options: out * nag_scale * nag_tau

    options = {"transformer_options": {"patches": {"attn1_output_patch": [make_patch(5.0, 1.5)]}}}
    said = "another extension guides with a NAG of its own as well: the guidance is doubled"
    assert foreign.doubled(options) == said
    assert foreign.doubled({"transformer_options": {"patches": {"attn1_patch": [manager]}}}) == ""


def test_ours_is_not_another_nag():
    used = session()
    module = Layer()
    module.forward, _ = like_negpip(module, 1)
    options = patch_replaced({}, {KEY: module}, Step(used, Batch((entry(),)), "w"))
    assert foreign.doubled(options) == ""


def test_a_job_that_another_nag_has_taken_over_is_left_to_it():
    class NAGSampleGuard:
        def __call__(self):
            pass

    p = SimpleNamespace(sample=NAGSampleGuard())
    assert foreign.guards(p) == (
        "another extension guides this job with a NAG of its own, which takes nothing beside it"
    )
    assert foreign.guards(SimpleNamespace(sample=manager)) == ""
    assert foreign.guards(object()) == ""
