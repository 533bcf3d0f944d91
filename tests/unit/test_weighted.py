"""Several negatives: their lines, and the equation with weights against a float64 reference."""

import pytest
import torch

from nag_core.method.guidance import Method, average
from nag_core.method.joint import joint_attention
from nag_core.method.layout import Layout
from nag_core.method.lse_kernels import lse_kernel
from nag_core.method.negative import Entry, negative_from_schedules, weighted_negative
from nag_core.method.rows import Arrangement, Group
from nag_core.method.rule import Rule
from nag_core.settings.weighted import (
    MOST,
    Weighted,
    has_weights,
    parse_negatives,
    without_brackets,
)
from tests import joint_models as models
from tests import joint_reference as literal
from tests import reference
from tests.unit import test_cross as cross
from tests.unit.test_joint import FAMILIES, call, entry, error, inputs, normal, session

STRENGTH = (4.0, 2.5, 0.5)


def weighted_reference(pos, negs, weights):
    return reference.weighted_nag(pos, negs, weights, *STRENGTH)


def joined(entries, weights):
    total = sum(weights)
    parts = tuple((one.tokens, weight / total) for one, weight in zip(entries, weights, strict=True))
    return Entry(torch.cat([one.context for one in entries]), parts=parts)


# The lines


def test_lines_with_and_without_weights():
    text = "red :: 0.5\n\n  blue, dark  \n(green:1.2)::2\nyellow  ::  3e0\r\npurple :: 0"
    assert parse_negatives(text) == [
        ("red", 0.5), ("blue, dark", 1), ("(green:1.2)", 2), ("yellow", 3), ("purple", 0),
    ]  # fmt: skip


def test_prompt_editing_is_no_weight():
    for line in ("[red::0.5]", "[red :: 0.5]", "[a:b :: 3], c", "a::b c"):
        assert parse_negatives(line) == [(line, 1)]


def test_a_plots_cell_separates_lines_by_a_written_out_n():
    assert parse_negatives("red :: 1\\nblue :: 2") == [("red", 1), ("blue", 2)]
    assert parse_negatives("red :: 1\\\\nblue :: 2") == [("red", 1), ("blue", 2)], "as an infotext quotes it"


@pytest.mark.parametrize("line", ["red :: -1", "red :: x", "red ::", "red :: nan", "red :: inf"])
def test_a_weight_that_is_no_number_from_zero_up_is_refused(line):
    with pytest.raises(ValueError, match="no number from 0 up"):
        parse_negatives(line)


def test_more_negatives_than_there_can_be_are_refused():
    with pytest.raises(ValueError, match=f"there can be {MOST}"):
        parse_negatives("\n".join("x" * (MOST + 1)))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("(red:1.3)", "red :: 1.3"),
        ("( red :1.30 ), blurry,(text: .5)\nugly", "red :: 1.3\\ntext :: 0.5\\nblurry, ugly"),
        ("(red:1)", "red"),
        ("a (dark blue:2) ball", "dark blue :: 2\\na, ball"),
        ("((red:1.3) ball:1.2)", ""),
        ("[(red:1.3):blue:0.5]", ""),
        (", ".join("(x:2)" for _ in range(MOST + 1)), ""),
    ],
)
def test_weights_in_brackets_as_lines_to_copy(text, lines):
    assert has_weights(text)
    assert without_brackets([Weighted(text, 1.0)]) == lines
    assert parse_negatives(lines) == parse_negatives(lines.replace("\\n", "\n"))


def test_weights_in_brackets_are_multiplied_with_their_lines():
    several = [Weighted("(red:1.5)", 2.0), Weighted("blue", 0.5)]
    assert parse_negatives(without_brackets(several)) == [("red", 3.0), ("blue", 0.5)]


@pytest.mark.parametrize("text", ["red", "(red)", r"name \(1:2\)", "[red:blue:0.5]", "red :: 1.3", "(a:b)"])
def test_what_no_host_reads_as_a_weight_is_none(text):
    assert not has_weights(text)


# Schedules


def schedule(*parts):
    return [(end, torch.randn(tokens, 8)) for end, tokens in parts]


def test_every_image_gets_the_same_negatives_with_their_shares():
    made = weighted_negative([schedule((4, 7)), schedule((4, 9))], [["a"], ["b"]], (1.0, 3.0), 3)
    one, *others = made.at(2)
    assert one.parts == ((7, 0.25), (9, 0.75))
    assert one.tokens == 16
    assert others == [one, one]
    assert made.counts.most == (2, 16)


def test_prompt_editing_changes_only_its_own_part_and_a_blank_part_leaves_its_share_to_the_others():
    first, second = schedule((2, 7), (4, 5)), schedule((3, 9), (4, 9))
    made = weighted_negative([first, second], [["a", "b"], ["c", ""]], (1.0, 1.0), 1)
    assert [made.at(step)[0].parts for step in (0, 2)] == [((7, 0.5), (9, 0.5))] * 2
    assert made.at(3)[0].parts == ((5, 0.5), (9, 0.5))
    assert made.at(4)[0].tokens == 5
    assert made.at(4)[0].parts == ()
    assert torch.equal(made.at(0)[0].context, torch.cat([first[0][1], second[0][1]]))
    assert made.at(0)[0] is made.at(2)[0], "the keys of one entry are kept by its identity"


def test_nothing_but_blank_texts_are_no_negative():
    assert weighted_negative([schedule((4, 7))], [[" "]], (1.0,), 2).images == (None, None)


# The equation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_mean_is_within_twice_the_error_of_a_naive_one(dtype):
    outs = [normal(3, 37, 20, seed=i, dtype=dtype) for i in range(3)]
    weights = (0.5, 0.3, 0.2)
    truth = sum(w * out.double() for w, out in zip(weights, outs, strict=True))
    naive = sum(w * out for w, out in zip(weights, outs, strict=True))
    found = average(iter(outs), weights)
    assert found.dtype is dtype
    assert (found.double() - truth).abs().max() <= 2 * (naive.double() - truth).abs().max()


def test_the_mean_of_the_largest_values_stays_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        largest = torch.full((1, 2, 3), torch.finfo(dtype).max, dtype=dtype)
        assert torch.isfinite(average([largest] * 3, (0.5, 0.3, 0.2))).all()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 0.5), (2.0, 1e-9)], ids=str)
def test_cross_attention_follows_the_equation_with_weights(weights):
    q, k, v = cross.tensors(3, dtype=torch.float64)
    single = [cross.entry(9, 4, torch.float64), cross.entry(13, 5, torch.float64)]
    found = cross.run(q, k, v, [joined(single, weights)], [1, 0, 0])
    module = cross.Attention(torch.float64)
    plain = reference.attention(q, k, v, cross.HEADS)
    for row in (1, 2):
        one = slice(row, row + 1)
        negs = [
            reference.attention(
                q[one], module.to_k(c.context[None]), module.to_v(c.context[None]), cross.HEADS
            )
            for c in single
        ]
        assert (found[one] - weighted_reference(plain[one], negs, weights)).abs().max() < 1e-12
    assert torch.allclose(found[0], plain[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_equal_negatives_with_weights_1_and_1_are_one(dtype):
    q, k, v = cross.tensors(2, dtype=dtype)
    one = cross.entry(9, 4, dtype)
    twice = cross.run(q, k, v, [joined([one, one], (1.0, 1.0))], [1, 0])
    once = cross.run(q, k, v, [one], [1, 0])
    assert error(twice, once) <= 4 * torch.finfo(dtype).eps


def test_a_replacer_is_asked_for_each_negative_and_its_term_cancels():
    q, k, v = cross.tensors(2, dtype=torch.float64)
    term = normal(2, 35, cross.DIM, seed=9)
    calls = []

    def adapter(q, k, v, extra):
        calls.append(k.shape[1])
        return cross.host_attention(q, k, v, extra) + term

    single = [cross.entry(9, 4, torch.float64), cross.entry(13, 5, torch.float64)]
    options = {"transformer_options": {"patches_replace": {"attn2": {cross.KEY: adapter}}}}
    found = cross.run(q, k, v, [joined(single, (1.0, 2.0))], [1, 0], options=options)
    module = cross.Attention(torch.float64)
    plain = reference.attention(q, k, v, cross.HEADS) + term
    negs = [
        reference.attention(q[1:], module.to_k(c.context[None]), module.to_v(c.context[None]), cross.HEADS)
        + term[1:]
        for c in single
    ]
    assert (found[1:] - weighted_reference(plain[1:], negs, (1.0, 2.0))).abs().max() < 1e-12
    assert calls == [7, 9, 13]


def joint_rule():
    return Rule(*STRENGTH, Method.NAG, torch.zeros((), dtype=torch.int64))


def plain(q, k, v, mask):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("image_first", [False, True])
@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
def test_joint_attention_follows_the_equation_and_every_text_sees_only_itself_and_the_image(lse, image_first):
    layout = Layout(9, 7, 12, image_first)
    q, k, v = (normal(2, 2, layout.total, 16, seed=i) for i in range(3))
    made = joined([entry(4, 1), entry(5, 2)], (1.0, 3.0))
    rows = Arrangement([Group(slice(0, 2), (made, made))], None)
    kernel = lse_kernel(q) if lse else None
    found = joint_attention(q, k, v, layout, rows, plain, kernel, joint_rule())
    start = 19 if image_first else 0
    negs = [slice(start, start + 4), slice(start + 4, start + 9)]
    pos, image = layout.pos_part, layout.image_part

    def attend(queries, text):
        keys = [torch.cat((x[:, :, text], x[:, :, image]), 2) for x in (k, v)]
        return literal.softmax_attention(q[:, :, queries], *keys)

    assert error(found[:, pos], attend(pos, pos)) < 1e-13
    for neg in negs:
        assert error(found[:, neg], attend(neg, neg)) < 1e-13
    wanted = weighted_reference(attend(image, pos), [attend(image, neg) for neg in negs], (1.0, 3.0))
    assert error(found[:, image], wanted) < 1e-13


@pytest.mark.parametrize("lse", [True, False], ids=["lse", "two calls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_equal_negatives_are_one_in_a_whole_joint_model(family, lse):
    kind, _ = FAMILIES[family]
    network, tensors = models.build(kind), inputs(2, 7)
    entries = [entry(5, 5), entry(6, 6)]
    once = call(network, tensors, entries, [0], lse=lse)
    twice = call(network, tensors, [joined([one, one], (1.0, 1.0)) for one in entries], [0], lse=lse)
    assert error(twice, once) <= 1e-12
    mixed = call(network, tensors, [joined(entries, (1.0, 1.0))] * 2, [0], session(), lse=lse)
    assert error(mixed, once) > 1e-3


def test_equal_texts_of_a_job_share_their_schedule():
    one = schedule((4, 7))
    assert negative_from_schedules([one, one], [["a"], ["a"]]).at(0)[0] is not None
    made = weighted_negative([one, one], [["a"], ["a"]], (1.0, 1.0), 1).at(0)[0]
    assert torch.equal(made.context[:7], made.context[7:])


@pytest.mark.parametrize(
    ("line", "text", "weight"),
    [
        ("red::0.5", "red", 0.5),
        ("red::0", "red", 0.0),
        ("[red::0.5]", "[red::0.5]", 1.0),
        ("[red::0.5]::2", "[red::0.5]", 2.0),
        ("std::vector", "std::vector", 1.0),
        ("(red:1.2)", "(red:1.2)", 1.0),
    ],
)
def test_a_number_directly_behind_the_text_is_a_weight_too(line, text, weight):
    assert parse_negatives(line) == [(text, weight)]
