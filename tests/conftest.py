"""Options of the whole suite."""


def pytest_addoption(parser):
    group = parser.getgroup("webui")
    group.addoption("--webui-url", help="run tests/live against this WebUI instead of the sandbox")
    group.addoption("--checkpoint", help="name of the checkpoint the live WebUI shall use")
    group.addoption("--refiner", help="name of a second checkpoint to switch to in the middle of sampling")
    group.addoption(
        "--fingerprint",
        help="file of `python -m tests.live.fingerprint` from the same WebUI without the extension",
    )
