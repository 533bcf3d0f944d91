"""VSF and Orthogonal from the accordion's values to the picture and its parameters, on both toy models."""

import inspect

import pytest

from nag_core.settings.fields import FIELDS, OVERRIDES_SLOT
from nag_core.webui import infotext

CHECKPOINTS = ("tiny-shapes", "tiny-shapes-flux")
GIVEN = {
    "VSF": {"enabled": True, "method": "VSF", "scale": 2, "vsf_offset": 0.5},
    "Orthogonal": {"enabled": True, "method": "Orthogonal", "scale": 1},
}
NAMED = {"VSF": ", VSF (offset 0.5), ", "Orthogonal": ", Orthogonal, "}


@pytest.fixture(params=CHECKPOINTS)
def draw(request, job):
    """`draw(nag, **fields)`: pixels and parameters."""

    def drawn(nag, **fields):
        there = {"override_settings": {"sd_model_checkpoint": request.param}, **fields}
        _, processed = job(nag, **there)
        return [picture.tobytes() for picture in processed.images], processed.infotexts[0]

    return drawn


@pytest.mark.parametrize("method", GIVEN)
def test_each_draws_another_picture_than_off_and_than_nag_and_is_named(draw, method):
    off, _ = draw([])
    nag, _ = draw([{"scale": GIVEN[method]["scale"]}])
    found, text = draw([GIVEN[method]])
    assert len({*off, *nag, *found}) == 3
    assert "× 4/4 steps" in text
    assert NAMED[method] in text
    assert "clipped" not in text
    assert f"NAG method: {method}" in text
    assert draw([{**GIVEN[method], "tau": 1, "alpha": 0}])[0] == found


@pytest.mark.parametrize("method", GIVEN)
def test_scale_0_is_off_to_the_bit(draw, method):
    off, _ = draw([])
    found, text = draw([{**GIVEN[method], "scale": 0}])
    assert found == off
    assert "not applied: scale φ is 0" in text


@pytest.mark.parametrize("method", GIVEN)
def test_masks_blocks_a_curve_and_several_negatives(draw, method):
    whole, _ = draw([GIVEN[method]])
    for more in ({"blocks": "output, single"}, {"curve": "linear"}, {"negatives": "red :: 3\nblue"}):
        found, text = draw([{**GIVEN[method], **more}])
        assert found != whole
        assert NAMED[method] in text
    assert "2 negatives of " in text


def test_the_offset_counts_and_a_large_one_leaves_the_picture_of_the_prompt(draw):
    off, _ = draw([])
    some, more, all_of_it = (draw([{**GIVEN["VSF"], "vsf_offset": offset}])[0] for offset in (0, 2, 10))
    assert len({*off, *some, *more}) == 3

    def apart(one):
        return sum(abs(a - b) for a, b in zip(one[0], off[0], strict=True))

    assert apart(all_of_it) < min(apart(more), apart(some))


def test_the_negatives_padding_takes_no_part_in_vsf_and_does_in_nag(draw, monkeypatch):
    from nag_core.hosts import padding

    seen, plain = [], padding.without

    def watched(context, family, count):
        found = plain(context, family, count)
        seen.append((len(context), len(found)))
        return found

    monkeypatch.setattr(padding, "without", watched)
    draw([{"scale": 4}], negative_prompt="red")
    assert seen == []
    draw([GIVEN["VSF"]], negative_prompt="red")
    assert seen in ([(77, 3)], [(16, 2)])


@pytest.mark.parametrize(("preset", "values"), [("Auto", (1, 1.0)), ("SD3.5-L-Turbo VSF", (3.5, 0.1))])
def test_what_auto_and_the_authors_preset_come_to_is_recorded_and_redraws(draw, host, preset, values):
    nag = {"enabled": True, "preset": preset, "method": "VSF"}
    drawn, text = draw([nag])
    assert f"NAG scale: {values[0]:g}, " in text
    assert f"NAG VSF offset: {values[1]:g}" in text
    assert ("took a toy's: scale 1, offset 1" in text) == (preset == "Auto")
    pasted = host.infotext_utils.parse_generation_parameters(text, [])
    slots = [infotext.READERS[field.name](pasted) for field in FIELDS]
    slots.insert(OVERRIDES_SLOT, "")
    assert draw(slots)[0] == drawn


def test_what_is_not_read_is_said_and_the_status_has_the_offset(draw, script):
    _, text = draw([{**GIVEN["VSF"], "tau": 3}])
    assert "VSF does not read tau" in text
    last = inspect.unwrap(type(script).process).__globals__["STATUS"].last
    assert last["strength"]["vsf_offset"] == 0.5
    assert last["passes"][0]["rule"] == "VSF (offset 0.5)"


def test_the_hires_pass_has_its_own_scale(draw):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1, "steps": 2}
    same, _ = draw([GIVEN["VSF"]], **hires)
    other, text = draw([{**GIVEN["VSF"], "hires_scale": 5}], **hires)
    assert same != other
    assert text.count("VSF (offset 0.5)") == 2
