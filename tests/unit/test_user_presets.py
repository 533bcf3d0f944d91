"""The user's presets on disk: round trip, names, damage, and a write that fails half-way."""

import json
import logging
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nag_core.settings import strength, user_presets
from nag_core.settings.parse import FIELD, parse
from nag_core.settings.presets import CHOICES, Strength
from nag_core.settings.user_presets import LONGEST_NAME, Store

SOFT = {"scale": 1.5, "tau": 2.0, "alpha": 0.2}
FULL = {
    "scale": 3.0, "tau": 2.0, "alpha": 0.3, "start": 0.1, "end": 0.5, "method": "NASA",
    "hires": "Hires only", "hires_scale": 6.0,
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data" / "nag_presets.json")


@pytest.fixture
def file(store):
    store.path.parent.mkdir()
    return store.path


def test_no_file_is_no_presets_and_no_message(store, caplog):
    assert store.load() == {}
    assert not caplog.records
    assert not store.path.parent.exists()


def test_what_is_saved_is_there_for_the_next_store(store):
    assert store.save("  Soft ", SOFT) == "Soft"
    store.save("Größe 2 円", FULL)
    assert Store(store.path).load() == {"Soft": SOFT, "Größe 2 円": FULL}
    assert "円" in store.path.read_text(encoding="utf-8"), "readable for who opens it"


def test_a_saved_preset_drives_a_job(store):
    store.save("Soft", {**SOFT, "end": 0.5})
    settings = parse([True, "soft", 9, 9, 0.9], store.load()).settings
    assert strength.of(settings, "Flux") == Strength(1.5, 2.0, 0.2)
    assert settings.end == 0.5


def test_only_what_a_preset_is_for_is_stored(store):
    store.save("a", {**SOFT, "enabled": True, "negative": "secret", "preset": "Flux", "bogus": 1})
    assert store.load() == {"a": SOFT}


def test_optional_fields_at_their_default_are_left_to_the_sliders(store):
    store.save("a", {field: FIELD[field].default for field in FULL})
    assert set(store.load()["a"]) == {"scale", "tau", "alpha"}


def test_saving_again_replaces_also_in_another_case(store):
    store.save("Soft", FULL)
    assert store.save("SOFT", SOFT) == "Soft"
    assert store.load() == {"Soft": SOFT}


def test_rename_keeps_values_and_place(store):
    for name in ("a", "b", "c"):
        store.save(name, SOFT)
    store.save("b", FULL)
    assert store.rename("b", " B2 ") == "B2"
    assert list(store.load()) == ["a", "B2", "c"]
    assert store.load()["B2"] == FULL
    assert store.rename("B2", "b2") == "b2", "the same name in another case is free"


def test_delete_removes_one(store):
    store.save("a", SOFT), store.save("b", SOFT)
    store.delete("A")
    assert list(store.load()) == ["b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.rename("nobody", "x"), "no preset of yours named 'nobody'"),
        (lambda s: s.rename("Auto", "x"), "no preset of yours named 'Auto'"),
        (lambda s: s.rename("a", "B"), "'b' exists already"),
        (lambda s: s.rename("a", ""), "needs a name"),
        (lambda s: s.delete("nobody"), "no preset of yours named 'nobody'"),
        (lambda s: s.delete(None), "no preset of yours"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(store, call, message):
    store.save("a", SOFT), store.save("b", SOFT)
    before = store.path.read_bytes()
    with pytest.raises(ValueError, match=message):
        call(store)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    ["", "   ", None, 7, "x" * (LONGEST_NAME + 1), "a\nb", "a\x00b", "a\u202eb", "\ud800", "a\u2028b",
     *CHOICES, "auto", "sdxl"],
)  # fmt: skip
def test_names_that_cannot_be(store, name):
    with pytest.raises(ValueError, match="name"):
        store.save(name, SOFT)
    assert not store.path.exists()


def test_values_out_of_range_in_the_file_are_held(file):
    file.write_text(
        json.dumps({"a": {"scale": 99, "tau": "x", "alpha": -1, "end": 5, "method": "?", "x": 1}})
    )
    assert Store(file).load() == {"a": {"scale": 20.0, "tau": 2.5, "alpha": 0.0}}


def test_entries_that_are_no_presets_are_passed_over(file):
    good = {"ok": SOFT, "list": [1], "Auto": SOFT, " outer ": SOFT, "": SOFT, "OK": FULL}
    file.write_text(json.dumps(good))
    assert Store(file).load() == {"ok": SOFT}


def test_what_is_no_preset_any_more_stays_in_the_file_and_is_said_once(file, caplog):
    """A release may bring a built-in one of that name; the next save threw the user's values away."""
    written = {"SDXL": FULL, "Mine ": SOFT, "Two": SOFT, "two": FULL, "list": [1]}
    file.write_text(json.dumps(written))
    store = Store(file)
    with caplog.at_level(logging.WARNING, "nag"):
        assert store.load() == store.load() == {"Two": SOFT}
    assert len(caplog.records) == 4
    assert "'SDXL' is the name of a built-in preset" in caplog.text
    store.save("New", SOFT)
    store.rename("Two", "Other")
    store.delete("New")
    kept = json.loads(file.read_text())
    assert kept == {"SDXL": FULL, "Mine ": SOFT, "two": FULL, "list": [1], "Other": SOFT}


def test_what_no_encoding_writes_does_not_keep_a_preset_from_being_saved(file):
    file.write_text('{"\\ud800": {"scale": 1}, "Two": {}}')
    store = Store(file)
    store.save("Neü", SOFT)
    assert [*store.load()] == ["Two", "Neü"]
    assert "\ud800" in json.loads(file.read_text())
    assert [*file.parent.iterdir()] == [file]


def test_a_preset_is_not_renamed_to_an_entry_that_is_kept(file):
    file.write_text(json.dumps({"Foo": SOFT, "foo": FULL}))
    with pytest.raises(ValueError, match="a preset named 'foo' exists already"):
        Store(file).rename("Foo", "foo")
    assert json.loads(file.read_text()) == {"Foo": SOFT, "foo": FULL}


def test_a_deleted_preset_does_not_come_back_in_another_case(file):
    file.write_text(json.dumps({"Foo": SOFT, "foo": FULL, "FOO": 3, "bar": SOFT, "SDXL": FULL}))
    Store(file).delete("foo")
    assert list(Store(file).load()) == ["bar"]
    assert json.loads(file.read_text()) == {"bar": SOFT, "SDXL": FULL}


def test_a_file_that_notepad_has_written_is_read(file):
    file.write_text(json.dumps({"ok": SOFT}), encoding="utf-8-sig")
    assert Store(file).load() == {"ok": SOFT}
    assert not file.with_name("nag_presets.json.damaged").exists()


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b"null", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_damaged_file_is_kept_aside_with_one_message(file, caplog, content):
    file.write_bytes(content)
    store = Store(file)
    with caplog.at_level(logging.WARNING, "nag"):
        assert store.load() == {}
        assert store.load() == {}
    assert len(caplog.records) == 1
    assert file.with_name("nag_presets.json.damaged").read_bytes() == content
    store.save("new", SOFT)
    assert store.load() == {"new": SOFT}


def test_a_second_damaged_file_does_not_cost_the_first(file):
    for content in ("first", "second"):
        file.write_text(content)
        Store(file).load()
    assert file.with_name("nag_presets.json.damaged").read_text() == "first"
    assert file.with_name("nag_presets.json.damaged-2").read_text() == "second"


def test_a_file_that_cannot_be_read_is_not_written_over(store, caplog):
    store.path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "nag"):
        assert store.load() == {}
    assert "cannot be read" in caplog.text
    with pytest.raises(ValueError, match="cannot be read"):
        store.save("a", SOFT)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_litter(store, monkeypatch, step):
    store.save("a", SOFT)
    before = store.path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(user_presets.os, step, fail)
        with pytest.raises(ValueError, match="No space left"):
            store.save("b", SOFT)
    assert store.path.read_bytes() == before
    assert os.listdir(store.path.parent) == [store.path.name]


def test_a_link_stays_a_link(store, tmp_path):
    target = tmp_path / "real.json"
    target.write_text("{}")
    store.path.parent.mkdir()
    store.path.symlink_to(target)
    store.save("a", SOFT)
    assert store.path.is_symlink()
    assert json.loads(target.read_text()) == {"a": SOFT}


def test_two_tabs_saving_at_once_lose_nothing(store):
    names = [f"preset {number}" for number in range(20)]
    threads = [threading.Thread(target=store.save, args=(name, SOFT)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(store.load()) == set(names)


@given(st.text(max_size=LONGEST_NAME + 3))
def test_any_name_is_either_refused_or_survives_the_file(tmp_path_factory, name):
    store = Store(tmp_path_factory.mktemp("presets") / "p.json")
    try:
        stored = store.save(name, SOFT)
    except ValueError:
        return
    assert store.load() == {stored: SOFT}
    assert parse([{"preset": stored}], store.load()).settings.preset == stored
