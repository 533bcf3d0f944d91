"""The README's API example does what it says."""

import json
import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def example():
    block = README.split("<!-- api-example -->")[1].split("```")[1]
    return json.loads(re.search(r"-d '(.*?)'", block, re.DOTALL)[1])


def test_the_api_example_draws_another_picture_than_the_same_request_with_nag_off(webui):
    on = example()
    off = {**on, "alwayson_scripts": {"NAG": {"args": [{"enabled": False}]}}}
    plain = {key: value for key, value in on.items() if key != "alwayson_scripts"}
    pictures = [webui.post("txt2img", job).json()["images"][0] for job in (on, off, plain)]
    assert pictures[0] != pictures[1]
    assert pictures[1] == pictures[2]


def test_the_xyz_example_draws_a_grid(webui):
    source = README.split("<!-- xyz-example -->")[1].split("```")[1].removeprefix("python\n")
    assert "http://127.0.0.1:7860" in source
    names = {}
    exec(source.replace("http://127.0.0.1:7860", str(webui.http.base_url).rstrip("/")), names)
    assert len(names["grid"]) > 1000
    assert names["response"].status_code == 200
