"""Two clients for a few seconds, and that a mix-up is seen. For minutes: `python -m tests.live.clients`."""

import pytest

from tests.live.clients import API, PAGE, SCALES, Meeting, mixed_up, nobodys, wishes
from tests.live.queue_page import Answer

SECONDS = 8


@pytest.fixture
def meeting(webui, request):
    """On a WebUI whose page the test can speak to."""
    url = str(webui.http.base_url)
    config = webui.http.get("/config")
    if config.status_code != 200 or not config.json()["version"].startswith("4."):
        pytest.skip("this WebUI has no page of gradio 4")
    checkpoint, scheduler = map(request.config.getoption, ("--checkpoint", "--scheduler"))
    if checkpoint:
        webui.post("options", {"sd_model_checkpoint": checkpoint}).raise_for_status()
    more = {"scheduler": scheduler} if scheduler else {}
    slower = 10 if request.config.getoption("--webui-url") else 1
    return Meeting(url, SECONDS * slower, 1, more, interrupts=2 * slower)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_clients_at_once_get_their_own(meeting):
    outcome = meeting.run()
    assert outcome.findings == []
    for client in SCALES:
        for door in (PAGE, API):
            assert outcome.counts[f"{client} client by the {door}"] > 0
    assert outcome.counts["polls"] > 0
    assert outcome.counts["interrupts"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_clients_notice_that_they_get_the_others(webui, meeting):
    """The server gives every job with NAG the settings of the one before it."""
    if webui.http.post("/nag-test/v1/leave", params={"what": "mixed"}).status_code != 200:
        pytest.skip("this WebUI has no such fault: copy tests/live/extension into its extensions")
    try:
        findings = meeting.run().findings
    finally:
        webui.http.post("/nag-test/v1/leave")
    for said in ("not its own scale", "another's negative", "other parameters than alone", "another picture"):
        assert any(said in one for one in findings), said


WISH = wishes({})[0]
OWN = "Seed: 100, NAG scale: 3.25, NAG negative: blue square, first"
ALONE = Answer([b"own"], [OWN])


@pytest.mark.parametrize(
    ("answer", "cut", "said"),
    [
        (ALONE, False, ""),
        (Answer([b"half"], [f"{OWN}, NAG report: 1/2 steps"]), True, ""),
        (Answer([b"other"], [OWN]), False, "another picture than alone"),
        (Answer([b"own"], [f"{OWN}, NAG report: other"]), False, "other parameters than alone"),
        (Answer([], [OWN.replace("100", "200")]), True, "another's seed"),
        (Answer([], [OWN.replace("3.25", "7.5")]), True, "not its own scale"),
        (Answer([], [OWN.replace("first", "second")]), True, "another's negative"),
    ],
)
def test_what_a_client_says_of_an_answer(answer, cut, said):
    assert WISH.nag["scale"] == SCALES["first"]
    found = mixed_up(WISH, answer, ALONE, cut)
    assert [said in one for one in found] == [True] * bool(said)


def test_what_a_client_says_of_nag_where_it_asked_for_none():
    wish = next(one for one in wishes({}) if one.nag is None)
    assert mixed_up(wish, Answer([b"own"], ["Seed: 100"]), Answer([b"own"], ["Seed: 100"]), cut=False) == []
    (found,) = mixed_up(wish, Answer([], ["Seed: 100, NAG scale: 2"]), ALONE, cut=True)
    assert "NAG in a job without it" in found


def test_what_the_watcher_says_of_a_status():
    settings = {**WISH.nag, "tau": 2.5}
    good = {"settings": settings, "strength": {"scale": 3.25}, "passes": [{"strength": {"scale": 3.25}}]}
    assert nobodys(None, [WISH]) == nobodys(good, [WISH]) == ""
    assert nobodys({**good, "settings": {"enabled": False}}, [WISH]) == ""
    assert "nobody sent" in nobodys({**good, "settings": settings | {"negative": "x"}}, [WISH])
    mixed = {**good, "passes": [{"strength": {"scale": 7.5}}]}
    assert "the report of another" in nobodys(mixed, [WISH])
