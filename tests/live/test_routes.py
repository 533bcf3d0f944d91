"""The extension's own routes, its settings and its presets on any WebUI, and --api-auth on a sandbox."""

import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import cache

import httpx
import pytest

from nag_core import __version__
from nag_core.settings import presets
from nag_core.settings.parse import FIELDS
from nag_core.webui.options import OPTIONS
from tests.live.serving import ROOT, free_port

ROUTES = ("version", "schema", "presets", "status", "auto")


def get(webui, name):
    response = webui.http.get(f"/nag/v1/{name}")
    assert response.status_code == 200, response.text[:500]
    return response.json()


@pytest.fixture
def options(webui):
    """`options(nag_comments=False)` changes settings of the running WebUI. They end as their defaults: the
    hosts' API does not tell what the settings of extensions are.
    """
    yield lambda **values: webui.http.post("/sdapi/v1/options", json=values).raise_for_status()
    webui.http.post("/sdapi/v1/options", json={option.name: option.default for option in OPTIONS})


def test_version(webui):
    assert get(webui, "version")["version"] == __version__


def test_the_schema_describes_the_dict_form(webui):
    properties = get(webui, "schema")["properties"]
    assert list(properties) == [field.name for field in FIELDS]
    assert properties["scale"]["maximum"] == 20


def test_presets_are_listed_and_each_can_be_asked_for_by_name(webui):
    listed = get(webui, "presets")
    assert list(listed["built_in"]) == [name for name in presets.CHOICES if name != presets.CUSTOM]
    for name, values in [*listed["built_in"].items(), *listed["user"].items()]:
        report = webui.txt2img([{"preset": name}], steps=1)
        assert "not understood" not in report.infotexts[0], name
        for key, value in values.items():
            assert get(webui, "status")["settings"][key] == value or key in presets.values(name)


def test_the_status_is_what_the_last_job_did(webui):
    result = webui.txt2img([{"scale": 3.5, "end": 0.5}])
    status = get(webui, "status")
    assert status["settings"]["scale"] == status["strength"]["scale"] == 3.5
    assert status["explicit"] == ["end", "scale"]
    assert status["report"] == result.report()
    (one,) = status["passes"]
    assert (one["guided_calls"], one["total_calls"]) == (2, 4)
    assert one["layers"] > 0
    webui.txt2img([{"enabled": False}])
    assert get(webui, "status")["report"] == "off"


def test_auto_tells_what_the_last_job_was_drawn_with(webui):
    webui.txt2img([{}])
    found, status = get(webui, "auto"), get(webui, "status")
    strength = {name: found["strength"][name] for name in presets.STRENGTHS}
    assert (found["family"], strength) == (status["family"], status["strength"])
    assert found["strength"]["end"] == status["settings"]["end"]


def test_a_variant_draws_what_its_values_draw(webui):
    values = presets.values("SDXL v-pred")
    named, spelt = webui.txt2img([True, "SDXL v-pred", 9, 9, 0.9]), webui.txt2img([values])
    assert named.pixels == spelt.pixels
    assert "NAG preset: SDXL v-pred" in named.infotexts[0]
    assert "1/4 steps" in webui.txt2img([True, "Few-step"]).report()


def test_a_preset_that_is_gone_is_auto_and_said(webui):
    gone, auto = webui.txt2img([True, "Was mine once"]), webui.txt2img([True, "Auto"])
    assert gone.pixels == auto.pixels
    assert "Was mine once" in gone.report()


def test_the_default_negative_works_where_there_is_none_and_is_recorded(webui, options):
    own = webui.txt2img([{"negative": "blue square"}], negative_prompt="")
    main = webui.txt2img([{}], negative_prompt="red")
    options(nag_default_negative="blue square")
    default = webui.txt2img([{}], negative_prompt="")
    assert default.pixels == own.pixels
    assert "the default negative of the settings is used" in default.report()
    assert "NAG negative: blue square" in default.infotexts[0]
    assert webui.txt2img([{}], negative_prompt="red").pixels == main.pixels


def test_ticked_by_default_means_the_page_only(webui, options):
    plain = webui.txt2img()
    options(nag_enabled_default=True)
    after = webui.txt2img()
    assert "NAG" not in after.infotexts[0]
    assert after.pixels == plain.pixels


# Behind --api-auth


@contextmanager
def guarded_sandbox(log, *flags):
    port = free_port()
    command = [sys.executable, "-m", "nag_core.sandbox", "--port", str(port), *flags]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(400):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                httpx.get(f"{url}/sdapi/v1/options", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(30)


KNOWN = (("ann", "secret"), ("bob", "two"))


@pytest.fixture(scope="module")
def guarded_sandboxes(tmp_path_factory):
    """Starts a sandbox behind --api-auth with these flags, once: both stay up until the file is through."""
    with ExitStack() as running:

        @cache
        def start(*flags):
            log = tmp_path_factory.mktemp("guarded") / "log.txt"
            known = ",".join(map(":".join, KNOWN))
            return running.enter_context(guarded_sandbox(log, "--api-auth", known, *flags))

        yield start


@pytest.fixture(params=[[], pytest.param(["--nowebui"], marks=pytest.mark.slow)], ids=["page", "nowebui"])
def guarded(request, guarded_sandboxes):
    """A WebUI behind --api-auth: its URL, and who may come in."""
    live, auth = map(request.config.getoption, ("--webui-url", "--api-auth"))
    if live and not auth:
        pytest.skip("needs --api-auth, the name and password that the WebUI was started with")
    if live and request.param:
        pytest.skip("a live WebUI runs with its page or without, and was tried as it is under 'page'")
    if live:
        return live.rstrip("/"), (tuple(auth.split(":", 1)),)
    return guarded_sandboxes(*request.param), KNOWN


@pytest.fixture(scope="module")
def http():
    """One client for all: each makes a TLS context of its own."""
    with httpx.Client(timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", [*(f"nag/v1/{name}" for name in ROUTES), "sdapi/v1/options"])
def test_our_routes_are_as_guarded_as_the_hosts(guarded, http, path, request):
    root, known = guarded
    url, (user, password) = f"{root}/{path}", known[0]
    for wrong in (None, (user, "two"), (user, ""), ("eve", password), ("", "")):
        answer = http.get(url, auth=wrong)
        host = http.get(f"{root}/sdapi/v1/options", auth=wrong)
        assert answer.status_code == host.status_code == 401, wrong
        header = "www-authenticate"  # reForge sends none, from its own routes as well
        assert answer.headers.get(header) == host.headers.get(header)
        assert request.config.getoption("--webui-url") or answer.headers[header] == "Basic"
    for right in known:
        assert http.get(url, auth=right).status_code == 200


def test_the_status_is_null_before_the_first_job(guarded, request):
    if request.config.getoption("--webui-url"):
        pytest.skip("jobs ran on this WebUI before")
    url, known = guarded
    assert httpx.get(f"{url}/nag/v1/status", auth=known[0], timeout=60).json() is None
