"""A short soak, and that it finds what is left behind. The long one is `python -m tests.live.soak`."""

import pytest

from tests.live.soak import Soak, against
from tests.live.soak_jobs import KINDS, Resources, jobs
from tests.live.soak_left import grown

SHORT, GROWTH = 48, 20  # four of each kind of the sandbox; MiB that half of the jobs may add
# Of nag_test_walk.py's LEAVE, what the soak says of it.
SAID = {
    "hook": "left on a network: ",
    "forward": "left on a network: ",
    "function": "replaced: modules.processing.create_infotext by nag_core.left_behind.",
    "attribute": "left in the WebUI's modules: modules.shared.state.left_behind",
    "objects": "more alive than after the first twins: nag_core.left_behind.Left (1 more)",
    "memory": "MiB of memory added",
    "picture": "unlike its first twin in the picture, by up to ",
}


@pytest.fixture
def leave(webui):
    """`leave("hook")`, see nag_test_walk.py; taken away afterwards."""
    if webui.http.get("/nag-test/v1/walk").status_code != 200:
        pytest.skip("this WebUI has no walk: copy tests/live/extension into its extensions")
    yield lambda what="": webui.http.post("/nag-test/v1/leave", params={"what": what}).raise_for_status()
    webui.http.post("/nag-test/v1/leave")


@pytest.fixture
def has(webui, request):
    """The sandbox has a second model of its own."""
    named = map(request.config.getoption, ("--checkpoint", "--refiner", "--lora"))
    checkpoint, second, lora = (name or "" for name in named)
    if not request.config.getoption("--webui-url"):
        webui.checkpoint, second = "tiny-shapes", "tiny-shapes-flux"
    yield Resources(webui.upscaler, second, lora)
    webui.checkpoint = checkpoint or None


@pytest.mark.timeout(1800)
def test_a_short_soak_finds_nothing(webui, leave, has):
    planned = jobs(SHORT, 1, has)
    outcome = Soak(webui, planned, has.second, GROWTH).run()
    assert outcome.findings == []
    missing = {"LoRA": not has.lora, "other model": not has.second}
    assert set(outcome.kinds) == {kind for kind in KINDS if not missing.get(kind)}
    compared = sum(outcome.counts[f"twins compared, {which}"] for which in ("off", "on"))
    different = {job.number for job in planned if not job.interrupted}
    assert compared == SHORT - outcome.kinds["interrupt"] - len(different)
    assert outcome.counts["interrupted"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", SAID)
def test_a_soak_finds_what_is_left_behind(webui, leave, has, what):
    planned = [job for job in jobs(SHORT, 2, has) if job.kind in ("CFG 1", "CFG 7")]
    leaves_it = {len(planned) // 2: what}
    outcome = Soak(webui, planned, growth=GROWTH).run(lambda i: i in leaves_it and leave(leaves_it[i]))
    assert any(SAID[what] in one for one in outcome.findings), outcome.findings


@pytest.mark.parametrize(
    ("levels", "more"),
    [
        ([100, 101, 110, 111, 110, 111, 110, 158], 0),  # one look at reForge saw 48 MiB
        ([100, 101, 102, 103, 104, 105, 106, 107], 4),
        ([100, 100, 100, 100, 400, 400, 400, 400], 300),
    ],
    ids=["up and down", "a little with every job", "once, for good"],
)
def test_memory_counts_where_it_does_not_come_down_again(levels, more):
    assert grown(levels) == more


def test_the_same_seed_gives_the_same_jobs_and_each_has_its_twins():
    has = Resources("Latent", "second", "lora")
    planned = jobs(200, 1, has)
    assert planned == jobs(200, 1, has)
    assert planned != jobs(200, 2, has)
    assert {job.kind for job in planned} == set(KINDS)
    assert len({job.number for job in planned}) == len({job.number for job in planned[:50]}) == 50
    for kind in set(KINDS) - {"method", "odd"}:
        assert {job.is_off for job in planned if job.kind == kind} == {True, False}


def test_a_run_beside_one_without_the_extension():
    """As their files have them."""
    one = {"drawn": {"1": ["a"], "2": ["b"]}, "memory": {"growth_mib": 31.0}}
    other = {"drawn": {"1": ["a"], "2": ["c"]}, "memory": {"growth_mib": 10.5}}
    assert against(one, one, growth=20) == []
    assert against(one, other, growth=20) == [
        "off job 2: not the file that the WebUI without the extension makes",
        "20 MiB more were added than without the extension",
    ]
