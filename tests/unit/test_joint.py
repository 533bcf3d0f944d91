"""Joint attention under NAG against the literal two-branch reference, whole models with several blocks."""

import pytest
import torch

from nag_core.hosts.patcher.joint import patch_model_call
from nag_core.hosts.patcher.networks import JointModel
from nag_core.method.negative import Entry
from nag_core.method.rows import Batch
from tests import joint_models as models
from tests import joint_reference as literal
from tests import sessions

STRENGTH = (4.0, 2.5, 0.5)
FAMILIES = {"flux": (models.FluxLike, literal.flux), "sd3": (models.Sd3Like, literal.sd3)}
WITH_LSE, WITHOUT = "LSE merge (flash for CPU)", "two calls"


def session():
    return sessions.made(STRENGTH, attention_name="host")


def normal(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def entry(tokens, seed, dtype=torch.float64):
    return Entry(normal(tokens, models.CONTEXT, seed=seed, dtype=dtype))


def inputs(rows, text, dtype=torch.float64, size=(8, 6)):
    """One latent, timestep, context and pooled vector per row; 12 image tokens unless sized otherwise."""
    return (
        normal(rows, 4, *size, seed=1, dtype=dtype),
        normal(rows, seed=2, dtype=dtype),
        normal(rows, text, models.CONTEXT, seed=3, dtype=dtype),
        normal(rows, models.POOLED, seed=4, dtype=dtype),
    )


def described(network, lse=True):
    """What a host adapter says of the network; its attention is torch's own unless `lse` is off."""
    if isinstance(network, models.FluxLike):
        lists, name = (
            (("double", network.double_blocks), ("single", network.single_blocks)),
            "attention_function",
        )
    else:
        lists, name = (("joint", network.joint_blocks),), "attention"
    blocks = tuple((kind, block) for kind, listed in lists for block in listed)
    return JointModel(blocks, 2, vars(models), name, name != "attention", lambda function: lse)


def call(
    network,
    tensors,
    entries,
    marks,
    used=None,
    options=None,
    tiled=False,
    lse=True,
    joint=None,
    run=None,
    **more,
):
    """One wrapped model call, as the host's sampling function makes it; `run` instead of the network."""
    x, timestep, context, y = tensors
    options = {} if options is None else options
    joint = joint or described(network, lse)
    patched = patch_model_call(options, joint, used or session(), Batch(tuple(entries), tiled))
    transformer_options = {"cond_or_uncond": marks, **more.pop("transformer_options", {})}
    c = {"c_crossattn": context, "y": y, "transformer_options": transformer_options, **more}
    arguments = {"input": x, "timestep": timestep, "c": c, "cond_or_uncond": marks}

    def apply_model(x, timestep, c_crossattn, **c):
        return (run or network)(x, timestep, c_crossattn, **c)

    return patched["model_function_wrapper"](apply_model, arguments)


def expected(rule, network, tensors, negatives):
    """The reference row by row; None among the negatives: the plain model."""
    rows = []
    for i, one in enumerate(negatives):
        x, timestep, context, y = (tensor[i : i + 1] for tensor in tensors)
        if one is None:
            rows.append(network(x, timestep, context, y))
        else:
            rows.append(rule(network, x, timestep, context, one.context[None], y, STRENGTH))
    return torch.cat(rows)


def error(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (13, 4)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_two_at_cfg_1_equals_the_two_branch_reference(family, lengths, lse):
    kind, rule = FAMILIES[family]
    network, tensors = models.build(kind), inputs(2, lengths[0])
    entries = [entry(lengths[1], 5), entry(lengths[1], 6)]
    used = session()
    found = call(network, tensors, entries, [0], used, lse=lse)
    wanted = expected(rule, network, tensors, entries)
    assert error(found, wanted) <= 1e-12
    assert error(network(*tensors), wanted) > 1e-2  # the guidance is no small matter here
    assert used.path.startswith(WITH_LSE if lse else WITHOUT)


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_cfg_the_uncond_rows_are_the_plain_models(family, lse):
    """Negatives of two lengths, one image without any, and an AND prompt."""
    kind, rule = FAMILIES[family]
    network, tensors = models.build(kind), inputs(9, 7)
    entries = [entry(5, 5), None, entry(8, 6)]
    found = call(network, tensors, entries, [1, 0, 0], lse=lse)
    wanted = expected(rule, network, tensors, [None, None, None, *entries, *entries])
    assert error(found, wanted) <= 1e-12
    for row in (0, 1, 2, 4, 7):
        assert error(found[row], network(*(x[row : row + 1] for x in tensors))[0]) <= 1e-12


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_low_precision_is_at_most_twice_as_far_off_as_a_naive_run(family, dtype, lse):
    """Averaged over eight pictures: a single one can come out exact by luck."""
    kind, rule = FAMILIES[family]
    network, exact = models.build(kind, dtype), models.build(kind, dtype).double()
    tensors, entries = inputs(8, 7, dtype), [entry(5 + i % 3, 9 + i, dtype) for i in range(8)]
    wide, wide_entries = [x.double() for x in tensors], [Entry(one.context.double()) for one in entries]
    wanted = expected(rule, exact, wide, wide_entries)
    naive = expected(rule, network, tensors, entries)
    found = call(network, tensors, entries, [0], lse=lse)
    assert found.dtype is dtype
    assert error(found, wanted) <= 2 * error(naive, wanted)


def test_sd35_mediums_attention_among_image_tokens_is_left_alone_though_longer_than_the_text():
    network, tensors = models.build(models.Sd3Like), inputs(1, 3, size=(16, 16))
    entries = [entry(2, 5)]
    found = call(network, tensors, entries, [0])
    assert tensors[0].shape[2] * tensors[0].shape[3] // 4 == 64 > 3 + 2
    assert error(found, expected(literal.sd3, network, tensors, entries)) <= 1e-12


def test_the_official_rule_is_the_shared_one_where_the_pooled_vectors_are_equal():
    network = models.build(models.FluxLike)
    x, timestep, context, y = inputs(1, 7)
    neg = entry(5, 5).context[None]
    shared = literal.flux(network, x, timestep, context, neg, y, STRENGTH)
    assert error(literal.flux(network, x, timestep, context, neg, y, STRENGTH, y_neg=y), shared) <= 1e-12


def test_with_other_pooled_vectors_the_two_rules_differ_by_a_part_of_nags_effect():
    """The number of nag_core/README.md: random weights, in which the vector has as much say as the time."""
    network = models.build(models.FluxLike)
    x, timestep, context, y = inputs(1, 7)
    neg, other = entry(5, 5).context[None], normal(1, models.POOLED, seed=8)
    shared = literal.flux(network, x, timestep, context, neg, y, STRENGTH)
    official = literal.flux(network, x, timestep, context, neg, y, STRENGTH, y_neg=other)
    plain = network(x, timestep, context, y)
    assert float((official - shared).norm() / (official - plain).norm()) == pytest.approx(1.13, abs=0.02)


def test_a_negative_equal_to_the_prompt_changes_nothing():
    """z+ = z- : whatever the strengths."""
    network, tensors = models.build(models.FluxLike), inputs(1, 7)
    found = call(network, tensors, [Entry(tensors[2][0])], [0])
    assert error(found, network(*tensors)) <= 1e-12


def test_tiles_of_multidiffusion_are_guided_each():
    network, tensors = models.build(models.FluxLike), inputs(4, 7)
    entries = [entry(5, 5)]
    found = call(network, tensors, entries, [1, 0], tiled=True)
    wanted = expected(literal.flux, network, tensors, [None, entries[0], None, entries[0]])
    assert error(found, wanted) <= 1e-12


def test_the_report_counts_double_and_single_blocks():
    network, tensors, used = models.build(models.FluxLike), inputs(2, 7), session()
    used.begin_call()
    call(network, tensors, [entry(5, 5)], [1, 0], used)
    sentence = used.report().sentence()
    assert sentence.startswith("2 double + 3 single blocks × 1/1 steps, ")
    assert sentence.endswith("LSE merge (flash for CPU)")
    assert used.tokens == 5 * 12  # blocks x image tokens of the one conditional row
