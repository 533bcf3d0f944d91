"""`python -m tests.drift` finds every provoked change of a host's source, and says nothing where none is."""

import os
import subprocess
import sys

import pytest

from nag_core.hosts import version
from tests import host_table
from tests.drift import provoked
from tests.drift.__main__ import main
from tests.host_table import A1111, ALL, FORGE, LDM, NEO, SDNEXT, Function, Name, Word
from tests.live.serving import ROOT

FILE = "modules/a.py"
SOURCE = """
from modules.sampling import sample
import functools


class Job:
    seed: int = 0

    def __init__(self):
        self.width = 8

    def encode(self, texts, steps, caches=None, *, old=False):
        return {"end_at_step": steps}


class Loader:
    def load(self):
        self.loaded_hash = None


def schedules(texts, steps, hires_steps=None):
    return dict(cond=1)


settings = dict(references=[])
"""
ENTRIES = {
    "function": Function((FILE,), "schedules", 2, ("hires_steps",), order=("texts", "steps")),
    "method": Function((FILE,), "Job.encode", 3, ("old",), order=("texts", "steps", "caches")),
    "method of any class": Function((FILE,), "*.encode", 3),
    "definition": Name((FILE,), "schedules"),
    "import": Name((FILE,), "sample"),
    "attribute of a class": Name((FILE,), "Job.seed"),
    "attribute of an instance": Name((FILE,), "Job.width"),
    "attribute of any class": Name((FILE,), "*.loaded_hash"),
    "key of a module's dictionary": Name((FILE,), "settings.references"),
    "key": Word((FILE,), "end_at_step"),
    "keyword": Word((FILE,), "cond"),
    "attribute set on an object": Word((FILE,), "width"),
}
FUNCTIONS = [kind for kind, entry in ENTRIES.items() if isinstance(entry, Function)]


@pytest.fixture
def tree(tmp_path):
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(SOURCE)
    return tmp_path


def said(tree, tmp_path, entry, change):
    return host_table.missing(provoked.copied(tree, tmp_path / "changed", entry, change), entry)


@pytest.mark.parametrize("kind", ENTRIES)
def test_what_is_there_is_not_said_and_what_was_renamed_is(tree, tmp_path, kind):
    entry = ENTRIES[kind]
    assert host_table.missing(tree, entry) == ""
    sentence = said(tree, tmp_path, entry, provoked.renamed)
    assert entry.name in sentence
    assert FILE in sentence
    (tree / FILE).unlink()
    assert host_table.missing(tree, entry) == f"there is no {FILE} any more ({entry.name})"


HEADS = {
    "schedules": "def schedules(texts, steps, hires_steps=None)",
    "encode": "def encode(self, texts, steps, caches=None, *, old=False)",
}
CHANGES = [
    ("function", "def schedules(texts, *, hires_steps=None)", "takes 1 arguments by position, not 2"),
    ("function", "def schedules(texts, steps)", "does not take hires_steps any more"),
    ("function", "def schedules(texts, steps, model, hires_steps=None)", "wants model as well"),
    ("function", "def schedules(texts, steps, *, model, hires_steps=None)", "wants model as well"),
    (
        "function",
        "def schedules(steps, texts, hires_steps=None)",
        "takes steps as argument 1, where texts was",
    ),
    (
        "function",
        "async def schedules(texts, steps, hires_steps=None)",
        "is no function of its own, and what it takes cannot be read",
    ),
    (
        "method",
        "def encode(self, texts, steps, hires_steps=None, *, old=False)",
        "takes hires_steps as argument 3, where caches was",
    ),
    (
        "method",
        "def encode(self, texts, steps, *, old=False)",
        "takes 2 arguments by position, not 3",
    ),
    (
        "method of any class",
        "def encode(self, texts, steps, caches, model)",
        "wants model as well",
    ),
]


@pytest.mark.parametrize(("kind", "head", "sentence"), CHANGES)
def test_a_function_that_takes_something_else_is_one_sentence(tree, tmp_path, kind, head, sentence):
    entry = ENTRIES[kind]
    old = HEADS[entry.name.rpartition(".")[2]]
    assert old in SOURCE
    got = said(tree, tmp_path, entry, lambda text, _: text.replace(old, head))
    assert got.startswith(f"{FILE}: {entry.name}")
    assert got.endswith(sentence)


def test_a_wrapper_in_the_place_of_a_function_is_said(tree, tmp_path):
    got = said(tree, tmp_path, ENTRIES["function"], lambda text, _: text + "schedules = wrapped(schedules)\n")
    assert got.endswith("schedules is no function of its own, and what it takes cannot be read")


@pytest.mark.parametrize("bad", ["def (", "\0", "x = '\udcff'"], ids=["syntax", "NUL", "not UTF-8"])
def test_a_source_that_cannot_be_read_is_one_sentence_too(tree, bad):
    (tree / FILE).write_text(SOURCE + bad, errors="surrogateescape")
    sentence = host_table.missing(tree, ENTRIES["function"])
    assert sentence.startswith(f"{FILE} cannot be read by this Python (")
    assert sentence.endswith("; schedules is in it")


@pytest.fixture(params=ALL)
def whole(request, tmp_path):
    """(host, the smallest checkout of it that has everything)"""
    provoked.write(tmp_path / "whole", request.param)
    return request.param, tmp_path / "whole"


def test_a_checkout_that_has_everything_passes(whole, capsys):
    host, tree = whole
    assert host_table.host_of(tree) == host
    assert main([str(tree)]) == 0
    needed = len(host_table.entries(host))
    assert needed > 40
    assert capsys.readouterr().out == (
        f"{tree}: {host}, unknown version: of {needed} things that NAG needs nothing changed\n"
    )


def test_every_entry_of_the_table_is_missed_where_it_has_another_name(whole, tmp_path):
    host, tree = whole
    entries = host_table.entries(host)
    unseen = [
        entry
        for number, entry in enumerate(entries)
        if not host_table.missing(provoked.copied(tree, tmp_path / str(number), entry), entry)
    ]
    assert unseen == []


def test_every_function_of_the_table_is_missed_where_it_takes_something_else(whole, tmp_path):
    host, tree = whole
    functions = [entry for entry in host_table.entries(host) if isinstance(entry, Function)]
    assert len(functions) > 10
    for number, entry in enumerate(functions):
        head = provoked.signature(entry)
        others = [provoked.signature(entry, more="unlike")]
        others += [head.replace(f"{name}=None", "other=None") for name in entry.names]
        if entry.args:
            others.append(provoked.signature(entry._replace(args=entry.args - 1, order=entry.order[:-1])))
        if entry.order:
            others.append(provoked.signature(entry._replace(order=entry.order[::-1])))
        for other in others:
            changed = provoked.copied(
                tree,
                tmp_path / f"{number}",
                entry,
                lambda text, _, new=other, old=head: text.replace(f"{old}:", f"{new}:"),
            )
            assert host_table.missing(changed, entry), (entry.name, other)


def test_the_verdict_names_what_it_costs_and_where_the_thing_may_be_now(tmp_path, capsys):
    provoked.write(tmp_path, FORGE)
    (tmp_path / "backend" / "nn" / "chroma.py").unlink()
    parser = tmp_path / "modules" / "prompt_parser.py"
    parser.write_text(parser.read_text().replace("SdConditioning", "Other"))
    (tmp_path / "modules" / "conditioning.py").write_text("class __init__: ...\n")
    callbacks = tmp_path / "modules" / "script_callbacks.py"
    callbacks.write_text(callbacks.read_text().replace("on_before_ui", "before_ui"))
    (tmp_path / "modules" / "events.py").write_text("def on_before_ui(callback): ...\n")
    assert main([str(tmp_path)]) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("things that NAG needs 3 changed")
    gone = "IntegratedChromaTransformer2DModel, double_blocks, single_blocks"
    assert lines == [
        "  text of the negative:",
        "  - modules/prompt_parser.py has no SdConditioning.__init__ any more",
        "  one family of models:",
        f"  - there is no backend/nn/chroma.py any more ({gone})",
        "  page, report and plot:",
        "  - modules/script_callbacks.py has no on_before_ui any more; now in modules/events.py?",
    ]


def test_a_folder_that_is_no_webui_is_told_apart_from_one_that_changed(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    provoked.write(tmp_path / "webui", NEO)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path} is no WebUI that NAG knows\n"
        f"{tmp_path} is no WebUI that NAG knows (but {tmp_path / 'webui'} is)\n"
    )
    assert main([str(tmp_path), str(tmp_path / "webui")]) == 2


def test_it_starts_as_a_program_without_torch_and_imports_nothing_of_the_host(tmp_path):
    provoked.write(tmp_path, SDNEXT)
    for name in ("modules/__init__.py", "modules/scripts.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\nraise SystemExit('imported')\n")
    code = (
        "import sys; from tests.drift.__main__ import main; number = main(sys.argv[1:]); "
        "assert not {'torch', 'modules', 'gradio'} & set(sys.modules); raise SystemExit(number)"
    )
    for command in (["-m", "tests.drift"], ["-c", code]):
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing changed" in done.stdout


RECOGNISED = """
import sys
from nag_core.hosts import which

for tree in sys.argv[1:]:
    sys.path.insert(0, tree)
    print(which.detect().name)
    sys.path.remove(tree)
    for name in [name for name in sys.modules if name.split(".")[0] in {"modules", "backend", "ldm_patched"}]:
        del sys.modules[name]
"""


def test_a_host_is_recognised_as_the_extension_recognises_it(tmp_path):
    """Early Neo, and a fork of Forge main with Wan, were taken for Neo: the adapter wants Lumina as well."""
    expected = {
        FORGE: "Forge (backend)", NEO: "Forge Neo", SDNEXT: "SD.Next", A1111: "A1111", LDM: "ldm_patched",
        "early Neo": "Forge (backend)",
    }  # fmt: skip
    for name in expected:
        tree = tmp_path / name
        provoked.write(tree, name if name in ALL else NEO)
        if name not in ALL:
            (tree / "backend" / "nn" / "lumina.py").unlink()
        assert host_table.host_of(tree) == (name if name in ALL else FORGE)
        # As in a WebUI: packages, of which none needs to run.
        for file in tree.rglob("*.py"):
            file.write_text("")
        for folder in [folder for folder in tree.rglob("*") if folder.is_dir()]:
            (folder / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", RECOGNISED, *(str(tmp_path / name) for name in expected)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert dict(zip(expected, done.stdout.splitlines(), strict=True)) == expected


VERSIONS = [
    ({"modules_forge/forge_version.py": 'version = "neo"\nrelease = "2.26"\n'}, "neo 2.26"),
    ({"CHANGELOG.md": "\n## 1.10.1\n\n## 1.10.0\n"}, "1.10.1"),
    ({"CHANGELOG.md": "# Change Log for SD.Next\n\n## Update for 2026-07-23\n"}, "2026-07-23"),
    ({".git/HEAD": "0123456789abcdef\n"}, "commit 0123456789ab"),
    (
        {
            ".git/HEAD": "ref: refs/heads/neo\n",
            ".git/packed-refs": f"# pack-refs\n{'a' * 40} refs/heads/neo2\n{'b' * 40} refs/heads/neo\n",
            "modules_forge/forge_version.py": "version = 'classic'",
        },
        "classic, commit bbbbbbbbbbbb",
    ),
    (
        {".git/HEAD": "ref: refs/heads/neo\n", ".git/refs/heads/neo": "cccccccccccccccc\n"},
        "commit cccccccccccc",
    ),
    (
        {
            ".git": "gitdir: ../main/worktrees/a\n",
            "../main/worktrees/a/HEAD": "ref: refs/heads/a\n",
            "../main/worktrees/a/commondir": "../..\n",
            "../main/refs/heads/a": "dddddddddddddddd\n",
        },
        "commit dddddddddddd",
    ),
    ({"CHANGELOG.md": "nothing of the kind", ".git/HEAD": "ref: refs/heads/gone"}, "unknown version"),
    ({".git/HEAD": "not a commit", "modules_forge/forge_version.py": "version = 1"}, "unknown version"),
    ({".git": "\0"}, "unknown version"),
    ({}, "unknown version"),
]


@pytest.mark.parametrize(("files", "expected"), VERSIONS)
def test_the_version_is_what_the_folder_says(tmp_path, files, expected):
    for name, text in files.items():
        file = tmp_path / "webui" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert version.of_folder(tmp_path / "webui") == expected


def test_outside_of_a_webui_the_version_is_unknown(monkeypatch):
    monkeypatch.delitem(sys.modules, "modules", raising=False)
    assert version.running() == "unknown version"
