"""The borders of the tree: who may import what, and what a host trips over."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = [*ROOT.glob("tests/**/*.py")]
OURS = [*ROOT.glob("nag_core/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "install.py"]
# Programs of their own, with what their environment has.
PROGRAMS = {"sandbox", "bench", "evaluate"}
SOURCES = [path for path in OURS if not PROGRAMS & set(path.parts)]
STDLIB = sys.stdlib_module_names
HOST = {"modules", "modules_forge", "backend", "ldm_patched"}


def imported(path):
    """Every name that a file imports anywhere, dotted: modules, and what is taken out of them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        names |= set(found)
    return names


def imports(path):
    """Top-level package names a file imports anywhere, and the nag_core modules among them."""
    names = imported(path)
    return {name.split(".")[0] for name in names}, {name for name in names if name.startswith("nag_core.")}


# What each room's files may import beside the standard library and nag_core; a room that is not named, torch.
MAY_IMPORT = {
    "settings": set(),
    "hosts": {"torch", *HOST},
    "webui": {"torch", "gradio", "fastapi", "PIL", *HOST},
    "scripts": {"torch", "gradio", "fastapi", "PIL", *HOST},
    "install.py": set(),
}


def room(path):
    """The folder within nag_core, "nag_core" for a file beside them, "scripts" or a file of the root."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "nag_core":
        return parts[0]
    return parts[1] if len(parts) > 2 else "nag_core"


def allowed(path):
    more = {"triton"} if path.name == "triton_kernels.py" else set()
    return {"nag_core", *MAY_IMPORT.get(room(path), {"torch"}), *more}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_file_imports_only_what_its_layer_may(path):
    names, _ = imports(path)
    assert names - STDLIB <= allowed(path)


def arrows(path):
    """The rooms that a file's imports are in; a module beside the rooms is its own."""
    return {name.split(".")[1] for name in imports(path)[1]}


def rooms():
    """Room to the rooms that it looks into, of all that a WebUI loads; the modules beside them left out."""
    folders = {room(path) for path in SOURCES} - {"nag_core", "install.py"}
    graph = {name: set() for name in folders}
    for path in SOURCES:
        if room(path) in folders:
            graph[room(path)] |= arrows(path) & folders - {room(path)}
    return graph


def floors(graph):
    """The rooms from the ground up: each on the lowest floor that is above all it looks into."""
    height = {}

    def of(name):
        if name not in height:
            height[name] = 1 + max(map(of, graph[name]), default=-1)
        return height[name]

    for name in graph:
        of(name)
    return [{name for name in graph if height[name] == floor} for floor in range(max(height.values()) + 1)]


def test_arrows_between_rooms_go_down_as_the_readme_says():
    graph = rooms()
    assert cycle(graph) is None
    said = (ROOT / "nag_core" / "README.md").read_text(encoding="utf-8").split("Arrows go down: ")[1]
    order = [set(re.findall(r"`(\w+)`", part)) for part in said.split(".")[0].split("→")]
    assert floors(graph) == order[::-1]
    assert floors({"a": {"b"}, "b": set(), "c": {"a"}, "d": set()}) == [{"b", "d"}, {"a"}, {"c"}]


def test_the_reading_order_is_seven_files_that_can_be_read_in_one_go():
    text = (ROOT / "nag_core" / "README.md").read_text(encoding="utf-8").partition("## The rooms")[0]
    named = re.findall(r"^\d\. `([\w/]+\.py)`", text, re.MULTILINE)
    assert [Path(name).stem for name in named] == [
        "guidance", "rule", "merge", "cross", "fields", "session", "modifier",
    ]  # fmt: skip
    assert sum(len((ROOT / "nag_core" / name).read_text("utf-8").splitlines()) for name in named) <= 850


def test_modules_beside_the_rooms_know_nobody():
    for path in SOURCES:
        if room(path) == "nag_core" and path.stem != "__init__":
            assert not arrows(path), path


def cycle(graph):
    """Names of a circle in `graph` (name to names), None where there is none."""
    done, under_way = set(), []

    def visit(name):
        if name in under_way:
            return under_way[under_way.index(name) :]
        if name in done or name not in graph:
            return None
        under_way.append(name)
        found = next(filter(None, map(visit, sorted(graph[name]))), None)
        under_way.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(graph))), None)


# What stands there is imported as `modules` and `backend`, the host's own names.
SHIM = ROOT / "nag_core" / "sandbox" / "host"


def module(path):
    parts = path.relative_to(SHIM if SHIM in path.parents else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_by_way_of_others():
    """Lazy imports and those for type checkers count, too."""
    files = {module(path): path for path in ROOT.glob("nag_core/**/*.py")}
    graph = {name: (imported(path) & set(files)) - {name} for name, path in files.items()}
    assert cycle(graph) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_the_rooms_are_those_of_the_readme_and_so_is_where_things_went():
    text = (ROOT / "nag_core" / "README.md").read_text(encoding="utf-8")
    rooms, _, moved = text.partition("## Where things went")
    folders = {path.parent.name for path in ROOT.glob("nag_core/*/__init__.py")}
    within = {"diffusers", "patcher", "a1111", "toy", "host", "model"}
    assert folders == set(re.findall(r"`(\w+)/`", rooms)) - within
    files = {module(path) for path in ROOT.glob("nag_core/**/*.py")}
    for old, new in re.findall(r"^\| `(nag_core[\w.]+)` \| `([\w.]+)` \|$", moved, re.MULTILINE):
        assert new in files
        assert old not in files


def the_way():
    """The README's table of the way of φ: the files of each column, and those that hand it on unopened."""
    text = (ROOT / "nag_core" / "README.md").read_text(encoding="utf-8")
    table, _, beside = text.split("## The way of φ")[1].split("## ")[0].partition("Inside something larger:")
    rows = [line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|") and "`" in line]
    ways = [re.findall(r"`([\w/]+)`", " ".join(column)) for column in zip(*rows, strict=True)]
    return ways, re.findall(r"`((?:passes|method)/\w+)`", beside)


def source(name):
    """A file as the README names it."""
    return next(one for one in (ROOT / f"{name}.py", ROOT / "nag_core" / f"{name}.py") if one.is_file())


def named(text):
    """Every name that stands in the code, also as an attribute, a parameter or a keyword."""
    kinds = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg"}
    return {getattr(node, kinds[type(node)]) for node in ast.walk(ast.parse(text)) if type(node) in kinds}


def test_phi_goes_through_ten_files_and_each_once():
    ways, _ = the_way()
    assert len(ways) == 2
    for way in ways:
        assert len(way) <= 10
        assert len(set(way)) == len(way)
        assert len({source(name).parent for name in way}) <= 6
        for name in way[4:]:  # before these it is one of many settings
            assert {"phi", "strength"} & named(source(name).read_text(encoding="utf-8")), name


def test_what_hands_phi_on_never_names_it():
    ways, beside = the_way()
    assert sorted(beside) == ["method/cross", "method/focus", "method/joint", "passes/guiding"]
    # checks says beforehand which settings ask for nothing.
    hooks = [path for path in ROOT.glob("nag_core/hosts/*/*.py") if path.stem != "checks"]
    known = {source(name) for way in ways for name in way}
    for path in {*hooks, *map(source, beside)} - known:
        assert not {"phi", "strength"} & named(path.read_text(encoding="utf-8")), path
    assert named("f(a.phi, b=c)\ndef g(d): pass") == {"f", "a", "phi", "b", "c", "d"}


def test_nothing_that_a_webui_loads_imports_a_program():
    for path in SOURCES:
        assert not [name for name in imports(path)[1] if name.split(".")[1] in PROGRAMS], path


# What of us a program's files know. The evaluation speaks to a WebUI from outside, with whatever version of
# the extension is there; the toys' draws through the sandbox's API; the sandbox loads scripts/ as WebUIs do.
KNOWN = {
    "evaluate/*.py": ("settings", "evaluate"),
    "evaluate/toy/*.py": ("evaluate", "sandbox.app", "sandbox.model"),
    "sandbox/**/*.py": ("sandbox",),
    "bench/**/*.py": ("bench", "evaluate.tables", "hosts", "identity", "method", "passes", "settings"),
}


@pytest.mark.parametrize("files", KNOWN)
def test_a_program_knows_of_us_what_is_named(files):
    known = tuple(f"nag_core.{name}." for name in KNOWN[files])
    for path in ROOT.glob(f"nag_core/{files}"):
        for name in imports(path)[1] - {"nag_core.evaluate"}:
            assert f"{name}.".startswith(known), f"{path.name} imports {name}"
            assert "toy" in files or ".toy" not in name, f"{path.name} imports {name}"


def test_the_evaluation_starts_without_torch_or_a_model_package():
    code = (
        "import sys, nag_core.evaluate.__main__, nag_core.evaluate.clip, nag_core.evaluate.reward;"
        "assert not {'torch', 'open_clip', 'scipy', 'requests', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_script_base_class_is_never_imported_by_name():
    """`from modules.scripts import Script` registers the base class and breaks every API call of every
    extension.
    """
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "modules.scripts":
                assert "Script" not in [alias.name for alias in node.names]


def test_importing_the_package_needs_no_host_and_no_gradio():
    code = (
        "import sys, nag_core.hosts.patcher.unet, nag_core.settings.parse, nag_core.webui.job;"
        "import nag_core.webui.panel, nag_core.webui.infotext, nag_core.webui.routes;"
        "assert not {'gradio', 'fastapi', 'modules', 'backend', 'ldm_patched'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_install_installs_nothing_and_is_silent_where_all_is_there():
    result = subprocess.run(
        [sys.executable, "install.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == result.stderr == ""


def lines_of_functions(source):
    """(name, lines) of every function, its `def` and its last line counted."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, functions)]
    return [(node.name, node.end_lineno - node.lineno + 1) for node in found]


@pytest.mark.parametrize("path", [*OURS, *TESTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_keep_to_the_house_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert path in TESTS or len(text.splitlines()) <= 300
    assert [name for name, lines in lines_of_functions(text) if lines > 40] == []


def test_a_function_has_the_lines_from_its_def_to_its_last():
    assert lines_of_functions("@mark\ndef f():\n    a\n\n    b\n") == [("f", 4)]
    assert lines_of_functions("class C:\n    async def f(self): ...\ndef f(): ...") == [("f", 1), ("f", 1)]


def test_the_top_level_is_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing tells which files belong to the project")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    agreed = {
        "scripts", "nag_core", "javascript", "tests", "install.py", "README.md", "LICENSE", "CHANGELOG.md",
        "CONTRIBUTING.md", "pyproject.toml",
    }  # fmt: skip
    assert {name for name in top if not name.startswith(".")} <= agreed
