"""Two texts in one sequence where text has positions, padding and layers of its own (Neo's newer families),
against branches that have one text each, written out literally.
"""

import functools

import pytest
import torch
from torch import nn

from nag_core.hosts.patcher.networks import TEXT_ONLY, UNTOUCHED, JointModel
from nag_core.hosts.patcher.positions import own_padding, own_positions
from nag_core.method.heat import HeatMap
from nag_core.method.region import Region
from tests import joint_models as models
from tests import joint_reference as literal
from tests import reference
from tests.sessions import replan
from tests.unit.test_joint import STRENGTH, call, entry, error, inputs, session
from tests.unit.test_weighted import joined


class Angles(nn.Module):
    """Position ids (1, tokens, 2), number in the sequence and place in the picture, to angles."""

    def forward(self, ids):
        frequency = 10.0 ** -torch.arange(models.HEAD // 4, dtype=torch.float64)
        return (ids[..., None] * frequency).flatten(2)[:, None]


class Refiner(nn.Module):
    """Attention among the tokens it is given alone."""

    def __init__(self):
        super().__init__()
        self.stream = models.Stream()

    def forward(self, x, angles):
        vec = x.new_zeros(len(x), models.WIDTH)
        q, k, v = self.stream.heads(x, vec)
        q, k = models.rotate(q, angles), models.rotate(k, angles)
        out = models.attention_function(q, k, v, models.HEADS, skip_reshape=True)
        return self.stream.out(x, out, vec)


class Numbered(models.JointModelBase):
    """Text is numbered from 1 and padded to `pad`, the image stands behind it; each passes a refiner first.
    The image is padded, too; that has no numbers. `image_first`: in the sequence, not in the numbering.
    """

    def __init__(self, pad=1, image_first=False):
        super().__init__()
        self.pad, self.image_first, self.angles = pad, image_first, Angles()
        self.pad_token = nn.Parameter(torch.randn(1, models.WIDTH, dtype=torch.float64))
        self.text_refiner, self.image_refiner = nn.ModuleList([Refiner()]), nn.ModuleList([Refiner()])
        self.blocks = nn.ModuleList(models.SingleBlock() for _ in range(3))

    def ids(self, text, image, start=None):
        """start: the image's number, behind the text unless given."""
        numbers = torch.arange(1, text + 1, dtype=torch.float64)
        ids = torch.stack([numbers, torch.zeros(text, dtype=torch.float64)], -1)
        place = torch.arange(image, dtype=torch.float64)
        picture = torch.stack([torch.full_like(place, start or text + 1), place], -1)
        picture[self.seen :] = 0
        return torch.cat([picture, ids] if self.image_first else [ids, picture])[None]

    def text(self, context):
        return self.padded(self.txt_in(context))

    def tokens(self, x):
        tokens = super().tokens(x)
        self.seen = tokens.shape[1]
        return self.padded(tokens)

    def picture(self, img, x):
        return super().picture(img[:, : self.seen], x)

    def padded(self, tokens):
        missing = -tokens.shape[1] % self.pad
        return torch.cat([tokens, self.pad_token.expand(len(tokens), missing, -1)], 1)

    def join(self, text, image):
        return torch.cat([image, text] if self.image_first else [text, image], 1)

    def parts(self, x, text):
        """The text's and the image's part along the tokens of `x` (..., tokens, channels)."""
        image = x.shape[-2] - text
        if self.image_first:
            return x[..., image:, :], x[..., :image, :]
        return x[..., :text, :], x[..., text:, :]

    def forward(self, x, timestep, context, y, **_):
        img, txt, vec = self.tokens(x), self.text(context), self.vector(timestep, y)
        text = txt.shape[1]
        angles = self.angles(self.ids(text, img.shape[1]))
        of_text, of_image = self.parts(angles, text)
        txt, img = self.text_refiner[0](txt, of_text), self.image_refiner[0](img, of_image)
        joined = self.join(txt, img)
        for block in self.blocks:
            joined = block(joined, vec, angles)
        return self.picture(self.parts(joined, text)[1], x)


def branches(model, x, timestep, pos, negs, y, weights, where=1):
    """One picture, every stream by itself, one for each negative; the image keeps the number that the prompt
    gives it. where: which of its tokens are guided, (tokens, 1).
    """
    vec, img = model.vector(timestep, y), model.tokens(x)
    texts = [model.text(text) for text in (pos, *negs)]
    start = texts[0].shape[1] + 1
    angles = [model.angles(model.ids(text.shape[1], img.shape[1], start)) for text in texts]
    split = [model.parts(one, text.shape[1]) for one, text in zip(angles, texts, strict=True)]
    texts = [model.text_refiner[0](text, one[0]) for text, one in zip(texts, split, strict=True)]
    img = model.image_refiner[0](img, split[0][1])
    for block in model.blocks:
        *image, image_mlp = block.heads(img, vec)
        image[:2] = (models.rotate(each, split[0][1]) for each in image[:2])
        seen = [_seen(block, text, one[0], image, vec) for text, one in zip(texts, split, strict=True)]
        z_pos, *z_negs = (out[1] for out in seen)
        z = where * reference.weighted_nag(z_pos, z_negs, weights, *STRENGTH) + (1 - where) * z_pos
        texts = [block.out(text, out[0], out[2], vec) for text, out in zip(texts, seen, strict=True)]
        img = block.out(img, z, image_mlp, vec)
    return model.picture(img, x)


def _seen(block, text, angles, image, vec):
    """Attention over [text, image]: the text's part, the image's, and the text's MLP."""
    q, k, v, mlp = block.heads(text, vec)
    pair = models.rotate(q, angles), models.rotate(k, angles), v
    return *literal.joined(pair, image, None), mlp


def described(network):
    @functools.wraps(described)
    def adapt(layout, rows):
        return _adapted(network, layout, rows)

    return JointModel(
        tuple(("single", block) for block in network.blocks), 2, vars(models), "attention_function", True,
        lambda function: True, network.image_first, network.pad,
        ((TEXT_ONLY, network.text_refiner[0]), (UNTOUCHED, network.image_refiner[0])), adapt,
    )  # fmt: skip


def _adapted(network, layout, rows):
    from contextlib import ExitStack

    stack = ExitStack()
    stack.enter_context(own_positions(network.angles, layout, rows, image_axis=0))
    if network.pad > 1:
        stack.enter_context(own_padding(network.txt_in, lambda: network.pad_token, layout, rows))
    return stack


def expected(network, tensors, negatives, where=1):
    rows = []
    for i, one in enumerate(negatives):
        x, timestep, context, y = (tensor[i : i + 1] for tensor in tensors)
        given = (network, x, timestep, context)
        rows.append(network(*given[1:], y) if one is None else branches(*given, *_separate(one, y), where))
    return torch.cat(rows)


def _separate(negative, y):
    """The negatives that `joined` put into one entry, and their weights, around the pooled vector."""
    parts = negative.parts or ((negative.tokens, 1.0),)
    texts = negative.context[None].split([tokens for tokens, _ in parts], dim=1)
    return texts, y, [weight for _, weight in parts]


@pytest.fixture(params=[1, 4], ids=["no padding", "padded to 4"])
def network(request):
    return models.build(functools.partial(Numbered, request.param))


@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (13, 4), (8, 8)], ids=str)
def test_each_text_has_its_own_numbers_padding_and_refiner(network, lengths):
    tensors, used = inputs(2, lengths[0]), session()
    entries = [entry(lengths[1], 5), entry(lengths[1], 6)]
    found = call(network, tensors, entries, [0], used, joint=described(network))
    assert used.problems == []
    wanted = expected(network, tensors, entries)
    assert error(found, wanted) <= 1e-12
    assert error(network(*tensors), wanted) > 1e-2


def test_uncond_rows_and_images_without_a_negative_stay_as_they_are(network):
    tensors, used = inputs(6, 6), session()
    entries = [entry(9, 5), None, entry(3, 6)]
    found = call(network, tensors, entries, [1, 0], used, joint=described(network))
    assert used.problems == []
    assert error(found, expected(network, tensors, [None, None, None, *entries])) <= 1e-12


class ImageFirst(Numbered):
    """Ernie's order, without refiners before the blocks."""

    def __init__(self):
        super().__init__(image_first=True)


def image_first_network():
    network = models.build(ImageFirst)
    # Its refiner works on text alone, where [pos | neg] has no image in front.
    network.text_refiner[0].forward = lambda x, angles: x
    return network


@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (13, 4)], ids=str)
def test_the_image_may_stand_first_and_be_numbered_last(lengths):
    network, used = image_first_network(), session()
    tensors = inputs(2, lengths[0])
    entries = [entry(lengths[1], 5), entry(lengths[1], 6)]
    found = call(network, tensors, entries, [0], used, joint=described(network))
    assert used.problems == []
    assert error(found, expected(network, tensors, entries)) <= 1e-12


@pytest.fixture(params=["no padding", "padded to 4", "image first"])
def any_network(request):
    built = {"no padding": models.build(Numbered), "padded to 4": models.build(lambda: Numbered(4))}
    return built.get(request.param) or image_first_network()


@pytest.mark.parametrize("lengths", [(7, 7, 7), (5, 9, 3), (13, 4, 8)], ids=str)
def test_each_of_several_negatives_has_its_own_numbers_padding_and_refiner(any_network, lengths):
    network = any_network
    tensors, used = inputs(4, lengths[0]), session()
    made = joined([entry(tokens, 5 + i) for i, tokens in enumerate(lengths[1:])], (3.0, 0.5))
    found = call(network, tensors, [made, made], [1, 0], used, joint=described(network))
    assert used.problems == []
    wanted = expected(network, tensors, [None, None, made, made])
    assert error(found, wanted) <= 1e-12
    assert error(network(*tensors)[2:], wanted[2:]) > 1e-2


def test_two_equal_negatives_are_one(network):
    tensors, one = inputs(2, 7), entry(5, 5)
    once = call(network, tensors, [one, one], [0], joint=described(network))
    made = joined([one, one], (3.0, 0.5))
    assert error(call(network, tensors, [made, made], [0], joint=described(network)), once) <= 1e-12


def test_several_negatives_may_differ_from_image_to_image_where_every_row_has_its_own_positions(network):
    own = network.ids
    network.ids = lambda *given: own(*given).expand(2, -1, -1)
    tensors, used = inputs(2, 7), session()
    entries = [joined([entry(5, 5), entry(9, 6)], (1.0, 2.0)), joined([entry(9, 7), entry(3, 8)], (1.0, 1.0))]
    found = call(network, tensors, entries, [0], used, joint=described(network))
    network.ids = own
    assert used.problems == []
    assert error(found, expected(network, tensors, entries)) <= 1e-12


def test_where_rows_share_their_positions_it_costs_the_guidance_not_the_picture(network):
    tensors, used = inputs(2, 7), session()
    entries = [joined([entry(5, 5), entry(9, 6)], (1.0, 2.0)), joined([entry(9, 7), entry(3, 8)], (1.0, 1.0))]
    found = call(network, tensors, entries, [0], used, joint=described(network))
    assert torch.equal(found, network(*tensors))
    assert "several negatives that differ from image to image" in used.problems[0]


def test_a_mask_and_a_heat_map_know_the_picture_where_the_image_is_padded():
    network, tensors = models.build(lambda: Numbered(5)), inputs(2, 7, size=(8, 6))
    made = joined([entry(5, 5), entry(9, 6)], (3.0, 0.5))
    used = session()
    used.heat = HeatMap()
    found = call(network, tensors, [made, made], [0], used, joint=described(network))
    assert error(found, expected(network, tensors, [made, made])) <= 1e-12
    assert all(heat.shape == (4, 3) and (heat > 0).all() for heat in used.heat.pictures(2))
    replan(used, region=Region(torch.tensor([[1.0], [0.0]])))
    found = call(network, tensors, [made, made], [0], used, joint=described(network))
    assert used.problems == []
    upper = (torch.arange(15) < 6).double()[:, None]
    assert error(found, expected(network, tensors, [made, made], upper)) <= 1e-12


def test_nothing_stays_on_the_network_also_after_an_error(network):
    tensors = inputs(1, 7)

    def hooks():
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
        return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)

    call(network, tensors, [entry(5, 5)], [0], joint=described(network))
    assert hooks() == 0
    handle = network.text_refiner[0].stream.proj.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(network, tensors, [entry(5, 5)], [0], joint=described(network))
    handle.remove()
    assert hooks() == 0


def test_positions_of_an_unknown_number_of_tokens_cost_the_guidance_not_the_picture(network):
    """Reference images, for example: the host joins them to the image."""
    tensors, used = inputs(1, 7), session()
    own = network.ids
    network.ids = lambda *given: torch.cat([own(*given), own(*given)[:, -3:]], 1)

    def run(*given, **more):
        out = network.picture(network.tokens(given[0]), given[0])
        network.angles(network.ids(given[2].shape[1], 12))
        return out

    found = call(network, tensors, [entry(5, 5)], [0], used, joint=described(network), run=run)
    assert torch.equal(found, run(*tensors))
    assert "positions for" in used.problems[0]
