"""The README's examples do what it says. Its two commands: test_readme_commands.py."""

import base64
import io
import json
import re
import shlex
import shutil

import pytest
from PIL import Image

from tests.live.serving import ROOT, sandbox
from tests.readme import at, run, snippet


def test_the_api_example_saves_a_guided_picture(webui, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("the example needs curl, which is not installed")
    run(at(snippet("api-example"), webui.http.base_url), tmp_path)
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


def grid_of(response):
    """The plot's picture and its infotext: hosts write none into a grid's file."""
    assert response.status_code == 200, response.text
    answer = response.json()
    grid = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    return grid, json.loads(answer["info"])["infotexts"][0]


def test_the_xyz_example_draws_a_grid(webui):
    webui.unless_sdnext("calls its plot by another name")
    names = {}
    exec(at(snippet("xyz-example"), webui.http.base_url), names)
    grid, infotext = grid_of(names["response"])
    assert names["grid"] == names["response"].json()["images"][0]
    assert min(grid.size) >= 2 * 64
    assert 'X Type: [NAG] Enabled, X Values: "off,on"' in infotext
    assert "Y Type: [NAG] Override, Y Values: " in infotext


def test_the_plain_json_draws_a_grid(webui):
    plot = webui.plot()["args"]
    job = json.loads(snippet("xyz-json-example"))
    if len(plot) == 19:
        job["script_args"].insert(-2, 0)  # as the README says of Forge Neo
    if len(plot) > 19:
        pytest.skip(f"the plain JSON is that of Forge's plot: this WebUI's takes {len(plot)} arguments")
    assert len(job["script_args"]) == len(plot)
    job["script_args"][0] = plot[0]["choices"].index("[NAG] Enabled")
    grid, infotext = grid_of(webui.post("txt2img", job))
    assert grid.width >= 2 * 64
    assert 'X Type: [NAG] Enabled, X Values: "off,on"' in infotext


@pytest.mark.slow
def test_the_developer_commands_pass(request, tmp_path):
    """As printed but for the address and the file's folder, and cut down to one test each."""
    if request.config.getoption("--webui-url"):
        pytest.skip("they also need the WebUI without the extension: tried on the sandbox")
    commands = snippet("developer-commands").replace("without.json", shlex.quote(f"{tmp_path}/without.json"))
    fingerprint, live, browser = commands.splitlines()
    (tmp_path / "bare").mkdir()
    with sandbox(tmp_path / "bare") as url:
        run(at(fingerprint, url), ROOT)
    (tmp_path / "installed").mkdir()
    with sandbox(tmp_path / "installed", ROOT / "scripts") as url:
        bytes_alike = "-p no:cacheprovider -k test_with_nag_off_every_byte"
        assert "1 passed" in run(at(live, url), ROOT, PYTEST_ADDOPTS=bytes_alike)
        one_tick = "-p no:cacheprovider -k test_the_box_in_the_header"
        assert re.search("1 (passed|skipped)", run(at(browser, url), ROOT, PYTEST_ADDOPTS=one_tick))
