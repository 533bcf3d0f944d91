"""The README's examples do what it says; its two commands are in test_readme_commands.py."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.live.serving import ROOT, environment, sandbox
from tests.readme import URL, snippet


def here(text, url):
    """The snippet with the address of the WebUI under test in place of the usual one."""
    assert URL in text
    return text.replace(URL, str(url).rstrip("/"))


def test_the_api_example_saves_a_guided_picture(webui, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("the example is for curl, which is not installed")
    command = here(snippet("api-example"), webui.http.base_url)
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, env=environment(), check=True)
    with Image.open(tmp_path / "nag.png") as picture:
        assert picture.size == (256, 256)
        assert "NAG scale: 4" in picture.info["parameters"]
        assert "4/4 steps" in picture.info["parameters"]


def test_the_api_example_draws_another_picture_than_the_same_request_with_nag_off(webui):
    on = json.loads(re.search(r"-d '(.*?)'", snippet("api-example"), re.DOTALL)[1])
    off = {**on, "alwayson_scripts": {"NAG": {"args": [{"enabled": False}]}}}
    plain = {key: value for key, value in on.items() if key != "alwayson_scripts"}
    pictures = [webui.post("txt2img", job).json()["images"][0] for job in (on, off, plain)]
    assert pictures[0] != pictures[1]
    assert pictures[1] == pictures[2]


def test_the_xyz_example_draws_a_grid(webui):
    names = {}
    exec(here(snippet("xyz-example"), webui.http.base_url), names)
    assert names["response"].status_code == 200
    grid = Image.open(io.BytesIO(base64.b64decode(names["grid"])))
    assert min(grid.size) >= 2 * 64
    assert "X Type: [NAG] Enabled" in grid.info["parameters"]
    assert "Y Type: [NAG] Override" in grid.info["parameters"]


def test_the_plain_json_draws_a_grid(webui):
    scripts = webui.http.get("/sdapi/v1/script-info").json()
    plot = next(s for s in scripts if s["name"] == "x/y/z plot" and not s["is_img2img"])
    job = json.loads(snippet("xyz-json-example"))
    if len(job["script_args"]) != len(plot["args"]):
        pytest.skip(f"the plain JSON is Forge's: this WebUI's plot takes {len(plot['args'])} arguments")
    job["script_args"][0] = plot["args"][0]["choices"].index("[NAG] Enabled")
    response = webui.post("txt2img", job)
    assert response.status_code == 200, response.text
    grid = Image.open(io.BytesIO(base64.b64decode(response.json()["images"][0])))
    assert grid.width >= 2 * 64
    assert "X Type: [NAG] Enabled" in grid.info["parameters"]
    assert 'X Values: "off,on"' in grid.info["parameters"]


def test_the_developer_commands_pass(request, tmp_path):
    """Cut down to a test or two; the browser's only where -m browser asks for it."""
    if request.config.getoption("--webui-url"):
        pytest.skip("this WebUI cannot be had without the extension; the sandbox can")
    fingerprint, live, browser = snippet("developer-commands").splitlines()
    for name, scripts, command, chosen in (
        ("without", [], fingerprint, ""),
        ("with", [ROOT / "scripts"], live, "tests/live/test_api.py -k fingerprint"),
    ):
        (tmp_path / name).mkdir()
        with sandbox(tmp_path / name, *scripts) as url:
            ...
