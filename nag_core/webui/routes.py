"""GET routes under /nag/v1, behind the same `--api-auth` as the host's own API.

Hosts protect only the routes they add themselves, so the check is made here. Signatures carry no annotations:
fastapi evaluates them, and what is imported inside a function is not there to be found.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import nag_core
from nag_core import identity
from nag_core.hosts import which
from nag_core.hosts.unsupported import UnsupportedHost
from nag_core.settings import presets
from nag_core.settings.parse import FIELDS, Field
from nag_core.settings.user_presets import Store
from nag_core.webui import auto_line
from nag_core.webui.status import Status

_STRENGTHS = ("scale", "tau", "alpha")
_TYPES = {"bool": "boolean", "float": "number", "choice": "string", "text": "string"}


def register(demo: Any, app: Any, store: Store, status: Status) -> None:
    """on_app_started. `demo` is None on a server without a page; the routes need only the app."""
    from fastapi import Depends
    from modules import shared

    pairs = getattr(shared.cmd_opts, "api_auth", None)
    dependencies = [Depends(_guard(pairs))] if pairs else []
    identity.digest()  # of the files as they were loaded, and not as an update leaves them before a restart
    answers = {
        "version": version,
        "schema": lambda: schema(store.load()),
        "presets": lambda: listing(store.load()),
        "status": lambda: status.last,
        "auto": auto_line.answer,
    }
    for name, answer in answers.items():
        app.add_api_route(
            f"/nag/v1/{name}",
            answer,
            methods=["GET"],
            dependencies=dependencies,
            name=f"nag_{name}",
            summary=f"NAG {name}",
        )


def version() -> dict[str, str]:
    """What to name in a report: the release, the code that really runs, and the WebUI as it is recognised."""
    try:
        host = which.detect().name
    except UnsupportedHost as reason:
        host = str(reason)
    return {
        "name": "sd-webui-nag",
        "version": nag_core.__version__,
        "code": identity.digest(),
        "host": host,
    }


def _guard(pairs: str) -> Any:
    """A fastapi dependency: 401 unless the request carries one of "user:password,user2:password2"."""
    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPBasic

    known = dict(pair.split(":", 1) for pair in pairs.split(",") if ":" in pair)

    def check(credentials=Depends(HTTPBasic())):  # noqa: B008 (fastapi reads the default)
        expected = known.get(credentials.username)
        # As bytes: compare_digest refuses text beyond ASCII.
        if expected is None or not secrets.compare_digest(credentials.password.encode(), expected.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check


def schema(user_presets: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of the dict form of the argument. No key is required and unknown ones are only reported."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "NAG",
        "description": "First argument of the script NAG in alwayson_scripts.",
        "type": "object",
        "properties": {field.name: _property(field, user_presets) for field in FIELDS},
    }


def _property(field: Field, user_presets: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _TYPES[field.kind], "title": field.label, "description": field.help}
    if field.kind == "float":
        found |= {"minimum": field.minimum, "maximum": field.maximum}
    if field.kind == "choice":
        found["enum"] = [*field.choices, *(user_presets if field.name == "preset" else ())]
    if field.name in _STRENGTHS:
        found["description"] += " Omitted: the preset's."
    else:
        # A dict is an order by itself: only an explicit false turns it off.
        found["default"] = True if field.name == "enabled" else field.default
    return found


def listing(user_presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every preset with what it sets. Auto and Few-step leave the strength to the loaded model's row."""
    built_in = {name: presets.values(name) for name in presets.CHOICES if name != presets.CUSTOM}
    return {"built_in": built_in, "user": {name: dict(values) for name, values in user_presets.items()}}
