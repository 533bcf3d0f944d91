"""The table of what we rely on in a host finds what a host has changed, and knows all that our code uses."""

import ast
import gc

import pytest

from tests import host_table
from tests.host_table import FORGE, Function, Name, Word
from tests.live.serving import ROOT

SOURCE = """
import functools

class Job:
    seed: int = 0

    def __init__(self):
        self.width = 8

    def encode(self, texts, steps, caches=None, *, old=False):
        return {"end_at_step": steps}

def schedules(texts, steps, hires_steps=None):
    return dict(cond=1)

if True:
    attention = schedules
    schedules.counter = 1

def anything(*args, **kwargs):
    pass
"""
FILES = ("modules/a.py",)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "a.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize(
    "entry",
    [
        Function(FILES, "schedules", 2, ("hires_steps",)),
        Function(FILES, "Job.encode", 2, ("caches", "old")),
        Function(FILES, "anything", 7, ("more",)),
        Function(("modules/gone.py", *FILES), "schedules", 3),
        Name(FILES, "Job.width"),
        Name(FILES, "Job.seed"),
        Name(FILES, "*.width"),
        Name(FILES, "attention"),
        Name(FILES, "functools"),
        Word(FILES, "end_at_step"),
        Word(FILES, "cond"),
        Word(FILES, "counter"),
    ],
    ids=str,
)
def test_what_is_there_is_found(tree, entry):
    assert host_table.missing(tree, entry) == ""


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Function(FILES, "schedules", 4), "schedules() takes 3 arguments by position, not 4"),
        (Function(FILES, "schedules", 2, ("old",)), "schedules() does not take old any more"),
        (Function(FILES, "schedules", 1), "schedules() wants steps as well"),
        (Function(FILES, "schedules", 3, ("hires_steps",)), "schedules() does not take hires_steps any more"),
        (
            Function(FILES, "attention", 2),
            "is no function of its own, and what it takes cannot be read",
        ),
        (Name(FILES, "counter"), "modules/a.py has no counter any more"),
        (Function(FILES, "Job.encode", 4), "Job.encode() takes 3 arguments by position, not 4"),
        (Function(FILES, "Job.decode", 1), "modules/a.py has no Job.decode any more"),
        (Name(FILES, "Job.height"), "modules/a.py has no Job.height any more"),
        (Name(FILES, "seed"), "modules/a.py has no seed any more"),
        (Word(FILES, "cond_or_uncond"), "modules/a.py has no key 'cond_or_uncond' any more"),
        (Name(("modules/gone.py",), "x"), "there is no modules/gone.py any more (x)"),
    ],
    ids=str,
)
def test_every_kind_of_change_is_one_sentence(tree, entry, said):
    assert host_table.missing(tree, entry).endswith(said)


def test_neos_change_would_have_been_found(tree):
    """It dropped the fourth parameter of the schedule function, which was passed by position."""
    (entry,) = [one for one in host_table.ENCODING if one.name == "get_learned_conditioning_prompt_schedules"]
    (tree / "modules" / "prompt_parser.py").write_text(
        "def get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps=None): ..."
    )
    assert host_table.missing(tree, entry) == ""
    assert "takes 3 arguments by position, not 4" in host_table.missing(tree, entry._replace(args=4))


def test_the_sandbox_is_held_to_the_table_as_a_host_is():
    tree = ROOT / "nag_core" / "sandbox" / "host"
    assert host_table.host_of(tree) == FORGE
    wanted = [one for one in host_table.entries(FORGE) if not isinstance(one, Word)]
    present = [one for one in wanted if any((tree / name).is_file() for name in one.files)]
    assert len(present) > 60
    said = [host_table.missing(tree, one) for one in present]
    # It spreads jobs, scripts and samplers over several files, saves no pictures and loads no LoRA;
    # its engines count tokens, their base does not.
    apart = (
        "modules/processing.py", "modules/scripts.py", "modules/sd_samplers_common.py", "modules/images.py",
        "backend/nn/", "backend/patcher/base.py has no *.lora_loader",
        "backend/diffusion_engine/base.py has no *.get_prompt_lengths_on_ui",
    )  # fmt: skip
    made_by_a_function = "is no function of its own"  # its callbacks
    assert [one for one in said if one and not one.startswith(apart) and made_by_a_function not in one] == []


ROOTS = ("modules", "backend", "ldm_patched", "modules_forge")


def uses(source):
    """(module, name) of everything that a file takes from a host's modules: by import, by attribute, by
    `asked.attribute` and by getattr.
    """
    tree = ast.parse(source)
    modules, found = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) not in modules:
            owner, name = ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "asked.attribute"):
            owner, name = ast.unparse(node.args[0]), getattr(node.args[1], "value", None)
        else:
            continue
        if owner in modules and isinstance(name, str):
            found.add((modules[owner], name))
    return found


def _imported(tree):
    """The modules of a host by the names they have in a file, and what is imported out of such modules."""
    modules, found = {}, set()
    for node in ast.walk(tree):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            name = f"{module}.{alias.name}" if module else alias.name
            if name.split(".")[0] not in ROOTS:
                continue
            if module and not _is_module(name):
                found.add((module, alias.name))
            else:
                modules[alias.asname or alias.name] = name
    return modules, found


def _is_module(name):
    listed = {file.removesuffix(".py").replace("/", ".") for one in host_table.TABLE for file in one.files}
    return name in listed


def files():
    apart = ("sandbox", "bench", "evaluate")
    found = [*(ROOT / "nag_core").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    return [file for file in found if not set(file.relative_to(ROOT).parts) & set(apart)]


@pytest.fixture
def no_collector():
    """Python before 3.11.8 raises SystemError where garbage is collected while it parses."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_everything_that_our_code_takes_from_a_host_stands_in_the_table():
    known = {
        (file.removesuffix(".py").replace("/", "."), one.name.split(".")[0])
        for one in host_table.TABLE
        for file in one.files
    }
    used = {(module, name, file.name) for file in files() for module, name in uses(file.read_text("utf-8"))}
    assert len(used) > 25
    assert sorted(one for one in used if one[:2] not in known) == []


def test_what_the_reader_of_our_code_sees():
    source = """
def f(p):
    from modules import prompt_parser, shared
    from modules.ui_components import ToolButton
    import backend.attention
    asked.attribute(prompt_parser, "SdConditioning")
    getattr(shared, "opts", None)
    return shared.cmd_opts.port, backend.attention.attention_function
"""
    assert uses(source) == {
        ("modules.ui_components", "ToolButton"), ("modules.prompt_parser", "SdConditioning"),
        ("modules.shared", "opts"), ("modules.shared", "cmd_opts"),
        ("backend.attention", "attention_function"),
    }  # fmt: skip
