"""A live WebUI over HTTP: asks again while that can help, and otherwise says in one line what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from nag_core.evaluate.errors import BAD_USE, EvaluationError

# A fault of the server's own may pass (memory of another program); the same three times does not.
ATTEMPTS, PAUSES = 3, (1.0, 2.0, 4.0, 8.0)
CONNECT_SECONDS = 10


class Client:
    """`check()` before the first job, `draw(payload)` for each. `timeout`: seconds that one job may take;
    `patience`: seconds to wait for a WebUI that has gone away in the middle.
    """

    def __init__(
        self,
        url: str,
        auth: tuple[str, str] | None = None,
        timeout: float = 600,
        patience: float = 120,
        say: Callable[[str], None] = print,
    ) -> None:
        try:
            import requests
        except ImportError as error:
            raise EvaluationError("the package requests is missing: pip install requests", BAD_USE) from error
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EvaluationError(f"{url!r} is not an address like http://127.0.0.1:7860", BAD_USE)
        # Without a name and password that someone put into the address: it is shown and written down.
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        if auth is None and parts.username:
            auth = (parts.username, parts.password or "")
        self.timeout, self.patience, self.say = timeout, patience, say
        self._requests = requests
        self._session = requests.Session()
        self._session.auth = auth

    def check(self) -> str:
        """The name of the loaded checkpoint ("" where the WebUI does not say).

        Raises EvaluationError where there is no WebUI, no API, no access or no NAG.
        """
        scripts = self._once("GET", "scripts", None)
        if not isinstance(scripts, dict) or "txt2img" not in scripts:
            raise EvaluationError(f"{self.url} does not answer like a WebUI with --api")
        if "nag" not in [str(name).lower() for name in scripts["txt2img"] or []]:
            raise EvaluationError(f"the WebUI at {self.url} has no NAG: install the extension there first")
        options = self._once("GET", "options", None)
        return str((options if isinstance(options, dict) else {}).get("sd_model_checkpoint") or "")

    def draw(self, payload: dict[str, Any]) -> Any:
        """The txt2img answer, decoded from JSON. Raises EvaluationError when asking again does not help."""
        failures, gone_since, pauses = 0, None, iter(PAUSES)
        while True:
            try:
                return self._once("POST", "txt2img", payload)
            except _GoneError as error:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since >= self.patience:
                    raise
                self.say(f"{error}; trying again for {self.patience:g} s")
            except _FaultError as error:
                gone_since, failures = None, failures + 1
                if failures == ATTEMPTS:
                    raise
                self.say(f"{error}; asking again")
            time.sleep(min(next(pauses, PAUSES[-1]), max(self.patience, 0.0)))

    def _once(self, method: str, route: str, payload: dict[str, Any] | None) -> Any:
        requests = self._requests
        try:
            response = self._session.request(
                method, f"{self.url}/sdapi/v1/{route}", json=payload, timeout=(CONNECT_SECONDS, self.timeout)
            )
        except requests.ReadTimeout as error:
            raise EvaluationError(
                f"no answer within {self.timeout:g} s: give more with --timeout, or a smaller --batch-size"
            ) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _GoneError(
                f"the WebUI at {self.url} does not answer: is it running, with --api?"
            ) from error
        except (requests.RequestException, UnicodeError) as error:
            raise EvaluationError(f"cannot ask {self.url}: {error}") from error
        if response.status_code != 200:
            raise self._refused(response, route)
        try:
            return response.json()
        except ValueError as error:
            raise _FaultError(f"{self.url} answered {route} with something that is not JSON") from error

    def _refused(self, response: Any, route: str) -> EvaluationError:
        code, detail = response.status_code, _detail(response)
        if code in (401, 403):
            return EvaluationError(
                f"{self.url} refuses the name or password: give those of its --api-auth, --auth USER:PASSWORD"
            )
        if code == 404 and route != "txt2img":
            return EvaluationError(f"{self.url} has no /sdapi/v1/{route}: start the WebUI with --api")
        if code >= 500:
            return _FaultError(f"the WebUI failed on {route} ({code}: {detail}); its own log says more")
        return EvaluationError(f"the WebUI refused {route} ({code}: {detail})")


class _GoneError(EvaluationError):
    """No connection, or one that broke: it may come back."""


class _FaultError(EvaluationError):
    """The WebUI's own failure: it may pass."""


def _detail(response: Any) -> str:
    """What the server said, short and on one line."""
    try:
        answer = response.json()
        said = answer.get("detail") or answer.get("errors") or answer.get("error") or answer
    except (ValueError, AttributeError):
        said = response.text
    text = " ".join(str(said).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
