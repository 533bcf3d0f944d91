"""Schedules of the negative by image and step, and the lifetime of the keys and values made from them."""

import pytest
import torch
from torch import nn

from nag_core.method.negative import (
    Entry,
    KeyValueCache,
    cross_attention_context,
    negative_from_schedules,
)


def schedule(*parts):
    return [(end, torch.randn(tokens, 8)) for end, tokens in parts]


def test_a_schedule_whose_halves_differ_in_length_resolves_step_by_step():
    """The hosts' reconstruct_cond_batch raises here: it writes all entries into one tensor."""
    negative = negative_from_schedules([schedule((5, 77), (10, 154))], [["a", "b"]])
    assert [negative.at(step)[0].tokens for step in (0, 5, 6, 10)] == [77, 77, 154, 154]


def test_past_the_last_entry_the_first_is_taken_as_the_hosts_do():
    negative = negative_from_schedules([schedule((5, 77), (10, 154))], [["x", "y"]])
    assert negative.at(11)[0].tokens == 77


def test_images_with_an_empty_negative_are_left_out():
    one, two = schedule((4, 77)), schedule((4, 77))
    negative = negative_from_schedules([one, two, one], [["red"], ["  "], ["red"]])
    entries = negative.at(0)
    assert entries[1] is None
    assert entries[0] is not None
    assert entries[2] is not None


def test_a_schedule_that_runs_empty_stops_guiding_there():
    negative = negative_from_schedules([schedule((2, 77), (4, 77))], [["red", ""]])
    assert negative.at(2)[0] is not None
    assert negative.at(3)[0] is None
    assert negative_from_schedules([schedule((2, 77), (4, 77))], [["", " "]]).images == (None,)


def test_equal_prompts_share_their_entries_and_so_their_keys():
    shared = schedule((4, 77))
    entries = negative_from_schedules([shared, shared], [["red"], ["red"]]).at(0)
    assert entries[0] is entries[1]


@pytest.mark.parametrize("shape", [(5, 8), (1, 8), (2, 5, 8)], ids=str)
def test_the_conditioning_of_one_text_is_taken_as_it_is(shape):
    cond = torch.randn(shape)
    assert cross_attention_context(cond) is cond


def test_a_text_that_comes_as_a_batch_of_one_loses_the_batch():
    """Neo's Krea 2."""
    cond = torch.randn(1, 5, 8)
    assert torch.equal(cross_attention_context(cond), cond[0])


def test_sdxl_conds_give_their_cross_attention_part():
    cond = {"crossattn": torch.randn(77, 8), "vector": torch.randn(4)}
    (entry,) = negative_from_schedules([[(4, cond)]], [["red"]]).at(0)
    assert entry.context is cond["crossattn"]


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_k, self.to_v = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False)
        self.calls = 0
        self.to_k.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1

    def project(self, text):
        return self.to_k(text), self.to_v(text)


def test_keys_and_values_are_made_once_per_entry_and_pass():
    module, cache, q = Counted(), KeyValueCache(), torch.randn(2, 5, 6)
    entries = (Entry(torch.randn(77, 8)), Entry(torch.randn(77, 8)))
    with torch.no_grad():
        for _ in range(3):
            k, v = cache.get("layer", entries, q, "w", module.project)
    assert module.calls == 2
    assert k.shape == v.shape == (2, 77, 6)
    assert torch.equal(k[1], module.to_k(entries[1].context))


def test_a_change_of_weights_device_or_dtype_makes_them_anew():
    module, cache, entries = Counted(), KeyValueCache(), (Entry(torch.randn(77, 8)),)
    with torch.no_grad():
        cache.get("layer", entries, torch.randn(1, 5, 6), "lora a", module.project)
        cache.get("layer", entries, torch.randn(1, 5, 6), "lora b", module.project)
        module.double()
        q = torch.randn(1, 5, 6, dtype=torch.float64)
        k, _ = cache.get("layer", entries, q, "lora b", module.project)
    assert module.calls == 3
    assert k.dtype is torch.float64


def test_the_former_weights_keys_and_values_are_let_go():
    """They would lie on the device until the pass ends, just when another expert was loaded (Wan 2.2)."""
    module, cache, entry = Counted(), KeyValueCache(), Entry(torch.randn(77, 8))
    for weights in ("high noise", "low noise"):
        for layer in ("one", "two"):
            cache.get(layer, (entry,), torch.randn(1, 5, 6), weights, module.project)
    assert module.calls == 4
    assert len(cache.made) == 2


def test_clear_lets_go_of_everything():
    module, cache = Counted(), KeyValueCache()
    cache.get("layer", (Entry(torch.randn(77, 8)),), torch.randn(1, 5, 6), "w", module.project)
    cache.clear()
    assert not cache.made
