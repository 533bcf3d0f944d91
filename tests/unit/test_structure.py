"""The borders of the tree: who may import what, and what a host trips over."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = [*ROOT.glob("nag_core/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "install.py"]
# Programs of their own, with what their environment has.
PROGRAMS = {"sandbox", "bench", "evaluate"}
SOURCES = [path for path in OURS if not PROGRAMS & set(path.parts)]
STDLIB = sys.stdlib_module_names
HOST = {"modules", "modules_forge", "backend", "ldm_patched"}


def imports(path):
    """Top-level package names a file imports anywhere, and the nag_core modules among them."""
    names, inner = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        names |= {name.split(".")[0] for name in found}
        inner |= {name for name in found if name.startswith("nag_core.")}
    return names, inner


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


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_by_way_of_others():
    """Lazy imports and those for type checkers count, too."""
    files = {module(path): path for path in ROOT.glob("nag_core/**/*.py")}
    graph = {name: (imports(path)[1] & set(files)) - {name} for name, path in files.items()}
    assert cycle(graph) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_the_rooms_are_those_of_the_readme_and_so_is_where_things_went():
    text = (ROOT / "nag_core" / "README.md").read_text(encoding="utf-8")
    rooms, _, moved = text.partition("## Where things went")
    folders = {path.parent.name for path in ROOT.glob("nag_core/*/__init__.py")}
    assert folders == set(re.findall(r"`(\w+)/`", rooms)) - {"diffusers", "patcher", "a1111"}
    files = {module(path) for path in ROOT.glob("nag_core/**/*.py")}
    for old, new in re.findall(r"^\| `(nag_core[\w.]+)` \| `([\w.]+)` \|$", moved, re.MULTILINE):
        assert new in files
        assert old not in files


def test_nothing_that_a_webui_loads_imports_a_program():
    for path in SOURCES:
        assert not [name for name in imports(path)[1] if name.split(".")[1] in PROGRAMS], path


def test_the_evaluation_knows_of_us_only_the_settings():
    """It speaks to a WebUI from outside, with whatever version of the extension is there."""
    for path in ROOT.glob("nag_core/evaluate/*.py"):
        for name in imports(path)[1]:
            assert name.split(".")[1] in ("settings", "evaluate"), f"{path.name} imports {name}"


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


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_keep_to_the_house_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 41, node.name


def test_the_top_level_is_what_was_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing tells which files belong to the project")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    agreed = {
        "scripts", "nag_core", "javascript", "tests", "install.py", "README.md", "LICENSE", "CHANGELOG.md",
        "pyproject.toml",
    }  # fmt: skip
    assert {name for name in top if not name.startswith(".")} <= agreed
