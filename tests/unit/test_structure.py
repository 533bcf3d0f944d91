"""The borders of the tree: who may import what, and what a host trips over."""

import ast
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


def allowed(path):
    relative = path.relative_to(ROOT).as_posix()
    stdlib_only = ("blocks", "config", "fields", "presets", "schedule", "user_presets", "weighted")
    if relative in (*(f"nag_core/{name}.py" for name in stdlib_only), "install.py"):
        return {"nag_core"}
    if relative.startswith(("nag_core/webui/", "scripts/")):
        return {"nag_core", "torch", "gradio", "fastapi", "PIL", *HOST}
    if relative == "nag_core/triton_kernels.py":
        return {"nag_core", "torch", "triton"}
    if relative.startswith("nag_core/hosts/"):
        return {"nag_core", "torch", *HOST}
    return {"nag_core", "torch"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_file_imports_only_what_its_layer_may(path):
    names, _ = imports(path)
    assert names - STDLIB <= allowed(path)


LAYERS = [
    "guidance",
    "merge",
    "schedule",
    "blocks",
    "weighted",
    "triton_kernels",
    "kernels",
    "presets",
    "fields",
    "config",
    "user_presets",
    "report",
    "negative",
    "region",
    "heat",
    "model_function",
    "reuse",
    "session",
    "attention",
    "hosts",
    "webui",
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows_between_layers_point_one_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "nag_core" or parts[1] not in LAYERS:
        return
    own = LAYERS.index(parts[1])
    for name in imports(path)[1]:
        layer = name.split(".")[1]
        assert layer not in LAYERS or LAYERS.index(layer) <= own, f"{path.name} imports {name}"


def test_nothing_that_a_webui_loads_imports_a_program():
    for path in SOURCES:
        assert not [name for name in imports(path)[1] if name.split(".")[1] in PROGRAMS], path


def test_the_evaluation_knows_of_us_only_the_settings():
    """It speaks to a WebUI from outside, with whatever version of the extension is there."""
    for path in ROOT.glob("nag_core/evaluate/*.py"):
        for name in imports(path)[1]:
            assert name.split(".")[1] in ("config", "presets", "evaluate"), f"{path.name} imports {name}"


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
        "import sys, nag_core.attention.cross, nag_core.config, nag_core.hosts, nag_core.webui.job;"
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
