"""The page of a WebUI with gradio 4 without a browser: its controls' values, sent to gradio's own queue."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from PIL import Image

TAB = "txt2img"
# What the page's own tick for a comparison and a grid would add to a job's pictures.
ALONE = {f"{TAB}_nag_compare": False}


@dataclass
class Answer:
    """Pixels of the gallery's pictures, and the infotexts beside them."""

    pixels: list[bytes]
    infotexts: list[str]


class QueuePage:
    """One open page: `txt2img(nag={...}, steps=4)` fills the controls in and presses Generate."""

    def __init__(self, url: str) -> None:
        # No keep-alive: uvicorn ends a connection that was idle for some seconds under the next request.
        self.http = httpx.Client(base_url=url, timeout=600, limits=httpx.Limits(max_keepalive_connections=0))
        self.session = uuid4().hex[:11]
        config = self.http.get("/config").json()
        if not config["version"].startswith("4."):
            raise ValueError(f"gradio {config['version']}: this page speaks to the queue of gradio 4")
        self._controls = {one["id"]: one for one in config["components"]}
        self._generate = self._pressed(config["dependencies"])

    def txt2img(self, nag: dict[str, Any] | None = None, **fields: Any) -> Answer:
        """nag: values of NAG's fields, None for NAG off. fields: of the tab, by its element ids."""
        asked = ALONE | {f"{TAB}_{name}": value for name, value in fields.items()}
        for name, value in (nag or {}).items():
            asked[f"script_{TAB}_nag_{name}"] = value
        data = [self._value(index, asked) for index in self._generate["inputs"]]
        if self._generate["js"]:  # the hosts' own script names the task
            data[0] = f"task({uuid4().hex[:15]})"
        return self._read(self._queued(data))

    def _pressed(self, dependencies: list[dict[str, Any]]) -> dict[str, Any]:
        """What the button starts: of all that listens to it, the one with a gallery in its outputs."""
        return next(
            one
            for one in dependencies
            if any(self._id(index) == f"{TAB}_generate" for index, _ in one["targets"])
            and any(self._id(index) == f"{TAB}_gallery" for index in one["outputs"])
        )

    def _id(self, index: int) -> str:
        """The element id of a control; of an accordion with a tick, the accordion's."""
        control = self._controls.get(index, {"props": {}})  # the page itself is none
        return str(control["props"].get("elem_id")).removesuffix("-checkbox")

    def _value(self, index: int, asked: dict[str, Any]) -> Any:
        control = self._controls[index]
        if control["type"] == "state":  # the server's own
            return None
        return asked.get(self._id(index), control["props"].get("value"))

    def _queued(self, data: list[Any]) -> list[Any]:
        """The outputs of the job, when its turn has come and it has ended."""
        job = {"data": data, "fn_index": self._generate["id"], "session_hash": self.session}
        self.http.post("/queue/join", json=job).raise_for_status()
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], str(message)[:2000]
                    return message["output"]["data"]
        raise AssertionError("the queue ended without an answer")

    def _read(self, outputs: list[Any]) -> Answer:
        named = dict(zip(map(self._id, self._generate["outputs"]), outputs, strict=True))
        said = named[f"generation_info_{TAB}"]
        texts = json.loads(said)["infotexts"] if said else []
        gallery = named[f"{TAB}_gallery"] or []
        pictures = gallery["value"] if isinstance(gallery, dict) else gallery
        return Answer([self._pixels(one["image"]["path"]) for one in pictures or []], texts)

    def _pixels(self, path: str) -> bytes:
        answer = self.http.get(f"/file={path}").raise_for_status()
        return Image.open(io.BytesIO(answer.content)).convert("RGB").tobytes()
