"""Options of the whole suite, and what needs the sandbox."""

import importlib.metadata
import os
from pathlib import Path

# Before torch is imported, and for the sandboxes that are started: the models here are too small for threads
# to help, and those of two processes wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    # Read by Triton when it is first imported: its kernels then run on the CPU (tests/unit/test_kernels.py).
    os.environ.setdefault("TRITON_INTERPRET", "1")

try:
    GRADIO = importlib.metadata.version("gradio")
except importlib.metadata.PackageNotFoundError:  # a GPU that is lent: torch, numpy and pytest alone
    GRADIO = ""
SANDBOX = GRADIO.startswith("4.")
# What imports nothing but torch, numpy, pytest and what it tests.
BARE = ("gpu", "test_hot_path.py", "unit", "test_kernels.py")


def pytest_report_header():
    return [] if GRADIO else "no gradio here: tests/gpu and tests/unit/test_kernels.py alone are collected"


def pytest_ignore_collect(collection_path):
    """Without gradio most tests could not even be imported."""
    below = collection_path.relative_to(Path(__file__).parent).parts if not GRADIO else ()
    return True if below and below[-1] not in BARE else None


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(config, items):
    """The sandbox is built with gradio 4: under the webui3 extra its tests are left out, and it says so."""
    for item in items:
        # Under `-n 2 --dist loadgroup` one process has the sandbox's server, the other its host within.
        if (folder := Path(item.path).parent.name) in ("live", "browser", "contract"):
            item.add_marker(pytest.mark.xdist_group(folder))
    if SANDBOX:
        return
    skip = pytest.mark.skip(
        reason="the sandbox needs gradio 4 (the webui4 extra); give --webui-url for live and browser tests"
    )
    for item in items:
        folder, file = Path(item.path).parent.name, Path(item.path).name
        own = folder == "contract" and not file.startswith("test_checkout")
        if own or (folder in ("live", "browser") and not config.getoption("--webui-url")):
            item.add_marker(skip)


def pytest_configure(config):
    if not config.getoption("--record", None):
        return
    if not config.getoption("--host"):
        raise pytest.UsageError("--record needs --host, the name of the WebUI in the support table")
    if not (config.getoption("--webui-url") or config.getoption("--webui-dir")):
        raise pytest.UsageError("--record is about a WebUI: give --webui-url or --webui-dir")
    from tests.live.record import Recorder

    config.pluginmanager.register(Recorder(config), "support-table")


def pytest_addoption(parser):
    group = parser.getgroup("webui")
    group.addoption("--webui-url", help="run tests/live and tests/browser against this WebUI")
    group.addoption(
        "--webui-dir",
        help="a WebUI's checkout, in whose environment pytest runs: tests of its own modules and classes "
        "(test_checkout*.py and test_neo_models.py of tests/contract, tests/unit/test_operations.py)",
    )
    group.addoption(
        "--sdnext-dir",
        help="a checkout of SD.Next, whose source tests/contract/test_sdnext.py then runs beside the sandbox",
    )
    group.addoption("--checkpoint", help="name of the checkpoint the live WebUI shall use")
    group.addoption("--api-auth", help="user:password of a live WebUI that was started with --api-auth")
    group.addoption("--fuzz", type=int, help="how many odd payloads a live WebUI gets; 1000 unless told")
    group.addoption(
        "--first-job",
        help="file of `python -m tests.live.fingerprint ... --first-job`, the first job of a fresh WebUI",
    )
    group.addoption("--scheduler", help="the scheduler its jobs ask for; Flux on Forge main needs Simple")
    group.addoption("--lora", help="name of a LoRA of the live WebUI that changes attn2's to_k")
    group.addoption("--controlnet", help="name of a ControlNet model of the live WebUI, without its hash")
    group.addoption("--refiner", help="name of a second checkpoint to switch to in the middle of sampling")
    group.addoption(
        "--fingerprint",
        help="file of `python -m tests.live.fingerprint` from the same WebUI without the extension",
    )
    group.addoption("--record", help="folder for a result file of this run (tests/live/record.py)")
    group.addoption("--host", help="with --record: the WebUI's name in the support table")
    group.addoption("--host-note", help="with --record: what to say of its version, in brackets")
    group.addoption("--family", help="with --record: the checkpoint's kind, such as SD1.5")
    group.addoption("--screenshots", help="--screenshots=FOLDER: pictures of the accordion (tests/browser)")
