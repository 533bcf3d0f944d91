"""A WebUI over HTTP, as an API user sees it."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pytest
from PIL import Image

PROMPT, NEGATIVE = "a circle", "red"
# To the last step: Auto ends earlier for some families.
ON = [{"enabled": True, "scale": 4, "end": 1.0}]


@dataclass
class Result:
    """A finished job: PNG bytes and the infotext of every picture."""

    pngs: list[bytes]
    infotexts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, response: httpx.Response) -> Result:
        assert response.status_code == 200, response.text[:2000]
        pngs = [base64.b64decode(image) for image in response.json()["images"]]
        return cls(pngs, [Image.open(io.BytesIO(png)).info.get("parameters", "") for png in pngs])

    @property
    def pixels(self) -> list[bytes]:
        return [Image.open(io.BytesIO(png)).convert("RGB").tobytes() for png in self.pngs]

    def report(self, index: int = 0) -> str:
        """The text behind "NAG report:", empty if there is none."""
        return self._parameter("NAG report", index)

    def applied(self, index: int = 0) -> str:
        """The words behind "NAG applied:": fully, partly (3 of 4 calls), no; empty if there are none."""
        return self._parameter("NAG applied", index)

    def _parameter(self, key: str, index: int) -> str:
        _, found, rest = self.infotexts[index].partition(f"{key}: ")
        if not found:
            return ""
        return rest[1:].partition('"')[0] if rest.startswith('"') else rest.partition(",")[0]


def largest_difference(one: bytes, two: bytes) -> int:
    """Of two pictures' pixels, in levels of 256."""
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


class WebUI:
    """`txt2img(nag=[...], **payload)` and the raw routes."""

    def __init__(
        self, url: str, checkpoint: str | None = None, scheduler: str | None = None, auth: str | None = None
    ) -> None:
        # No keep-alive: after an exception uvicorn resets the connection under the next request.
        self.http = httpx.Client(
            base_url=url, timeout=600, limits=httpx.Limits(max_keepalive_connections=0),
            auth=tuple(auth.split(":", 1)) if auth else None,
        )  # fmt: skip
        self.checkpoint, self.scheduler = checkpoint, scheduler
        # What the first job of its life drew (fingerprint.guided_job), where whoever started it saw to that.
        self.first_job: list[str] | None = None

    def payload(self, nag: Any = None, **more: Any) -> dict[str, Any]:
        """A small deterministic job; `nag` is the extension's argument list, None sends no script at all."""
        job = {
            "prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 1, "steps": 4, "width": 64, "height": 64,
            "cfg_scale": 1, "sampler_name": "Euler", "batch_size": 1, "override_settings": {},
        }  # fmt: skip
        if self.checkpoint:
            job["override_settings"]["sd_model_checkpoint"] = self.checkpoint
            job["override_settings_restore_afterwards"] = False
        if self.scheduler:
            job["scheduler"] = self.scheduler
        if nag is not None:
            job["alwayson_scripts"] = {"NAG": {"args": nag}}
        return job | more

    def post(self, route: str, payload: dict[str, Any]) -> httpx.Response:
        return self.http.post(f"/sdapi/v1/{route}", json=payload)

    def txt2img(self, nag: Any = None, route: str = "txt2img", **more: Any) -> Result:
        return Result.of(self.post(route, self.payload(nag, **more)))

    def listed(self, route: str) -> list[str]:
        """Names that the WebUI lists, of samplers or upscalers."""
        answer = self.http.get(f"/sdapi/v1/{route}").json()
        return [one if isinstance(one, str) else one["name"] for one in answer]

    @cached_property
    def is_sdnext(self) -> bool:
        return self.http.get("/nag/v1/version").json()["host"] == "SD.Next"

    def unless_sdnext(self, reason: str) -> None:
        """Skips the test on SD.Next, where it cannot hold."""
        if self.is_sdnext:
            pytest.skip(f"SD.Next {reason}")

    def sampler(self, name: str) -> str:
        """The sampler's name; the test is skipped where the WebUI has none of it."""
        if name not in self.listed("samplers"):
            pytest.skip(f"this WebUI has no sampler {name}")
        return name

    @cached_property
    def upscaler(self) -> str:
        """One for a hires pass that needs no model file; the test is skipped where there is none."""
        latent, others = (self.listed(route) for route in ("latent-upscale-modes", "upscalers"))
        plain = [name for name in ("Lanczos", "Nearest", "None") if name in others]
        found = [*[name for name in latent if name.lower().startswith("latent")], *plain]
        if not found:
            pytest.skip("this WebUI lists no upscaler that needs no model file")
        return found[0]

    def plot(self, route: str = "txt2img") -> dict[str, Any]:
        """The plot script as the WebUI describes it: the one with our axes, whatever it is called. (SD.Next
        has a second one that is on in every job, and lists some twice.)
        """
        is_img2img = route == "img2img"
        return next(
            one
            for one in self.http.get("/sdapi/v1/script-info").json()
            if one["is_img2img"] == is_img2img and not one["is_alwayson"]
            and any("[NAG] Enabled" in (arg.get("choices") or ()) for arg in one["args"])
        )  # fmt: skip

    @cached_property
    def is_a1111(self) -> bool:
        """By the attention that only nag_core/hosts/a1111/host.py names in the report."""
        return "torch attention for the negative" in self.txt2img([{}]).report()

    def same_but_for_main_negative(self, one: bytes, two: bytes) -> bool:
        """Whether the pixels of two pictures are equal whose main negatives differ, at CFG 1.

        But for A1111's rounding: at CFG 1 it still computes uncond + 1 · (cond − uncond) (combine_denoised of
        its CFG denoiser), and the main negative is that uncond.
        """
        return one == two or (self.is_a1111 and largest_difference(one, two) <= 1)

    def memory(self) -> float:
        """MiB of main memory the WebUI's process holds; the hosts name it "used"."""
        answer = self.http.get("/sdapi/v1/memory").json()
        return answer["ram"]["used"] / 2**20

    def resident(self) -> float:
        """The same after what it does not need has been given back, where the test extension can tell."""
        answer = self.http.get("/nag-test/v1/memory")
        return answer.json()["resident_mib"] if answer.status_code == 200 else self.memory()

    def in_background(self, *args: Any, **more: Any) -> tuple[threading.Thread, list[Result]]:
        """Starts txt2img in a thread; the result is appended to the list when it has ended."""
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(self.txt2img(*args, **more)))
        thread.start()
        return thread, results
