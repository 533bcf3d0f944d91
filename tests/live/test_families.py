"""What `python -m tests.live.families` sees on the WebUI of this run; the sandbox has two families."""

import pytest

from tests.live.client import WebUI
from tests.live.families import UnknownCheckpointError, looked_at, verdict

JOB = {"steps": 4, "width": 64, "height": 64, "batch_size": 1}


@pytest.fixture
def sandbox_url(webui, request):
    if request.config.getoption("--webui-url"):
        pytest.skip("names the sandbox's own checkpoints")
    yield str(webui.http.base_url)
    WebUI(str(webui.http.base_url), "tiny-shapes").txt2img()


@pytest.mark.parametrize("checkpoint", ["tiny-shapes", "tiny-shapes-flux"])
def test_a_family_that_works(sandbox_url, checkpoint):
    seen = looked_at(WebUI(sandbox_url, checkpoint), JOB)
    assert verdict(seen | {"job": JOB}) == "works", seen


def test_a_checkpoint_that_the_webui_does_not_know_is_no_family_that_works(sandbox_url):
    """Forge Neo drew with the one that it had loaded, and the table would have named another family."""
    with pytest.raises((UnknownCheckpointError, AssertionError), match="no-such"):
        looked_at(WebUI(sandbox_url, "no-such"), JOB)
