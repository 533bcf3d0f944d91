"""The sandbox's models: their world and its decoder, their shapes, their files, and their training."""

import re

import pytest
import torch

pytest.importorskip("tqdm", reason="the sandbox's models belong to its environment (webui4)")

from nag_core.sandbox.model import stages
from nag_core.sandbox.model.decoder import decode
from nag_core.sandbox.model.load import load, save, weights_file
from nag_core.sandbox.model.miniature import KINDS, POOLED, Miniature
from nag_core.sandbox.model.mmdit import MMDiT, rotate, rotations
from nag_core.sandbox.model.sampling import obedience
from nag_core.sandbox.model.trainer import Trainer
from nag_core.sandbox.model.vector import amplify
from nag_core.sandbox.model.world import sample
from nag_core.sandbox.train import train
from tests.extras import often


def drawn(n=48, seed=0):
    return sample(n, torch.Generator().manual_seed(seed))


def test_the_decoder_reads_every_attribute_of_a_drawn_picture():
    images, captions, attributes = drawn()
    found = decode(images)
    for name in ("shape", "colour", "ground", "framed"):
        assert torch.equal(getattr(found.attributes, name), getattr(attributes, name)), name
    assert found.valid.all()
    assert found.attributes.honour_each(captions).all()


def test_blends_and_noise_are_no_pictures_of_the_world():
    images, _, attributes = drawn()
    swapped = images.flip(0)
    differ = attributes.colour != attributes.colour.flip(0)
    blends = decode(((images + swapped) / 2)[differ])
    assert blends.valid.float().mean() < 0.1
    assert not decode(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))).valid.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (32, 32), (20, 36)])
def test_any_multiple_of_four_is_drawn(kind, size):
    model = Miniature(kind)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert model(x, torch.ones(2), model.conditions(["a circle", "red"])).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_are_refused(kind):
    model = Miniature(kind)
    with pytest.raises(ValueError, match="multiples of 4"):
        model(torch.randn(1, 3, 30, 32), torch.ones(1), model.conditions(["a circle"]))


def test_rotations_depend_on_the_distance_only():
    """What a rotary embedding is for: a product of two tokens sees where they are to each other."""
    ids = torch.tensor([[0, 0, 0], [0, 2, 3], [0, 1, 1], [0, 3, 4]])
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64).expand(2, 1, 1, 4, 32)
    turn = rotations(ids)
    products = rotate(q, turn)[0, 0] @ rotate(k, turn)[0, 0].T
    assert products[0, 1] == pytest.approx(products[2, 3].item(), rel=1e-5)
    assert products[0, 0] == pytest.approx((q[0, 0, 0] @ k[0, 0, 0]).item(), rel=1e-9)
    assert products[0, 1] != pytest.approx(products[1, 0].item(), rel=1e-3)


def test_the_order_of_text_tokens_does_not_matter_to_the_mmdit():
    """All of them stand at position zero, as Flux's do."""
    model = MMDiT().eval()
    x, context = torch.randn(1, 3, 16, 16), torch.randn(1, 5, 64)
    with torch.no_grad():
        one = model(x, torch.ones(1), context, context[:, -1])
        other = model(x, torch.ones(1), context.flip(1), context[:, -1])
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_weights_load_and_are_small(kind):
    assert weights_file(kind).stat().st_size < 4 * 2**20
    assert load(kind).kind == kind


# Without guidance, at 1 and 4 steps. These 128 captions gave valid 75 and 98 % (unet), 79 and 94 % (mmdit),
# shapes 98 and 89 %, captions obeyed 98 and 91 %.
@pytest.mark.parametrize(("steps", "valid"), often([(1, 0.66), (4, 0.9)], (1, 0.66)))
@pytest.mark.parametrize("kind", KINDS)
def test_shipped_models_draw_what_random_captions_ask_for(kind, steps, valid):
    found = obedience(load(kind), steps, 128)
    assert found["valid"] >= valid
    assert found["shape"] >= 0.8
    assert found["obeyed"] >= 0.85


def test_missing_damaged_and_foreign_weights_are_said_in_one_sentence(tmp_path):
    path = weights_file("unet", tmp_path)
    with pytest.raises(ValueError, match=re.escape("shapes-unet.safetensors and shapes-unet.sha256 belong")):
        load("unet", path)
    save(Miniature("unet"), path)
    assert load("unet", path).kind == "unet"
    with pytest.raises(ValueError, match="does not hold this version's") as caught:
        load("mmdit", path)
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged"):
        load("unet", path)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="unet, mmdit"):
        Miniature("dit")


class KilledError(Exception):
    pass


@pytest.fixture
def short(monkeypatch):
    """Every stage in a few small steps."""
    numbers = {"BATCH": 2, "PAIR_BATCHES": 1, "PAIR_BATCH": 4, "PAIR_STEPS": 1}
    steps = dict.fromkeys((*KINDS, POOLED), 3)
    for name, value in {**numbers, "FLOW_STEPS": steps, "DISTILL_STEPS": steps}.items():
        monkeypatch.setattr(stages, name, value)
    monkeypatch.setattr("nag_core.sandbox.model.trainer.SAVE_EVERY", 2)
    monkeypatch.setattr("nag_core.sandbox.train.obedience", lambda *_: {})
    # Hardly trained, it draws nothing valid; the distillation needs pairs all the same.
    seen = decode(drawn(4)[0])
    monkeypatch.setattr(stages, "decode", lambda pictures: seen)
    monkeypatch.setattr(type(seen.attributes), "honour_each", lambda self, prompts: seen.valid)


@pytest.mark.parametrize("kind", often((*KINDS, POOLED), "mmdit", POOLED))
def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(tmp_path, monkeypatch, short, kind):
    train(kind, 3, tmp_path / "state", tmp_path / "whole")
    descend = Trainer.descend
    for stage, step in (("flow", 2), ("distill", 2)):

        def killed(self, *given, at=(stage, step)):
            if (self.stage, self.step) == at:
                raise KilledError
            return descend(self, *given)

        monkeypatch.setattr(Trainer, "descend", killed)
        with pytest.raises(KilledError):
            train(kind, 3, tmp_path / "state", tmp_path / "broken")
    monkeypatch.setattr(Trainer, "descend", descend)
    train(kind, 3, tmp_path / "state", tmp_path / "broken")
    whole, broken = (weights_file(kind, tmp_path / name) for name in ("whole", "broken"))
    assert broken.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "state").iterdir())


def test_the_variant_goes_on_from_the_shipped_transformer_and_is_never_told_nothing(tmp_path):
    trainer, shipped = Trainer(POOLED, 0, tmp_path / "none.pt"), load("mmdit")
    for one, other in zip(trainer.net.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(one, other)
    captions = ["a circle"] * 400
    tokens, vectors = stages._views(trainer, captions, torch.Generator().manual_seed(0))
    assert 160 < tokens.count("") < 240
    assert 70 < vectors.count("") < 130
    assert ("", "") not in zip(tokens, vectors, strict=True)


def test_the_variant_starts_with_a_vector_that_is_as_loud_as_the_time_and_stays_so_in_fp16():
    model, captions = load("mmdit"), drawn(512)[1]

    def parts():
        return model.network.vector_in(model.conditions(captions)[1])

    before = parts()
    amplify(model, torch.Generator().manual_seed(0))
    after, spread = parts(), [(one - one.mean(0)).norm(dim=1).mean().item() for one in (before, parts())]
    assert spread[0] < 0.05
    assert spread[1] == pytest.approx(1, abs=0.1)
    assert torch.allclose(after.mean(0), before.mean(0), atol=0.1)
    model.half().float()
    assert (parts() - after).norm(dim=1).mean() < 0.05


def test_seeds_give_different_models(tmp_path):
    one, other = (Trainer("unet", seed, tmp_path / f"{seed}.pt") for seed in (0, 1))
    assert any(
        not torch.equal(a, b) for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True)
    )
    assert not torch.equal(stages._pair_noise(one, 0), stages._pair_noise(other, 0))
