"""A stand-in for a WebUI's API, alone or with the workers of stable-diffusion-webui-distributed behind it."""

import base64
import hashlib
import io
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image
from PIL.PngImagePlugin import PngInfo

REPORT = "7 layers × 4/4 steps, 12 % of tokens clipped by τ, attention_pytorch"


@dataclass
class Worker:
    """A machine that draws `count` of a batch; without `label` it is the one that is asked."""

    count: int
    label: str = ""
    has_nag: bool = True
    steps: int | None = None
    scale: int = 2
    model: str = "tiny"


@dataclass
class StandIn:
    """What the next jobs meet. `faults`: one for each coming job, "" for none."""

    workers: list[Worker] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=lambda: ["NAG", "Refiner"])
    report: str = REPORT
    auth: str = ""
    grid: bool = False
    backwards: bool = False
    text_inside: bool = True
    shifted_texts: bool = False
    spare: int = 0
    kind: str = "PNG"
    model: str = "tiny.safetensors"
    jobs: list[dict] = field(default_factory=list)
    url: str = ""
    before_job: object = None

    def infotext(self, job, seed, worker, nag):
        steps = worker.steps or job["steps"]
        text = f"{job['prompt']}\nNegative prompt: {job['negative_prompt']}\nSteps: {steps}, Sampler: Euler, "
        text += (
            f"CFG scale: {job['cfg_scale']}, Seed: {seed}, Size: {job['width']}x{job['height']}, "
            f"Model: {worker.model}"
        )
        args = job["alwayson_scripts"]["NAG"]["args"][0]
        if args["enabled"] and nag:
            text += f', NAG scale: {worker.scale}, NAG negative: "red, Seed: 99"'
            text += f", NAG report: {json.dumps(self.report)}"
        return text

    def draw(self, job, seed, nag=True):
        """A plain picture whose colour depends on all that a real one depends on."""
        on = job["alwayson_scripts"]["NAG"]["args"][0]["enabled"] and nag
        key = json.dumps([job["prompt"], job["negative_prompt"] if on else "", seed, float(job["cfg_scale"])])
        colour = tuple(hashlib.sha256(key.encode()).digest()[:3])
        return Image.new("RGB", (job["width"], job["height"]), colour)

    def answer(self, job):
        workers = self.workers or [Worker(job["batch_size"])]
        drawn, seed = [], job["seed"]
        for worker in [*workers, *([Worker(self.spare)] if self.spare else [])]:
            for _ in range(worker.count):
                own = self.infotext(job, seed, worker, worker.has_nag)
                # The main WebUI writes the text inside, and knows only what it did itself.
                inside = self.infotext(job, seed, workers[0], workers[0].has_nag)
                own += f", Worker Label: {worker.label}" if worker.label else ""
                drawn.append((self.draw(job, seed, worker.has_nag), inside, own, seed))
                seed += 1
        texts = [own for _, _, own, _ in drawn]
        if self.shifted_texts:
            first = next(index for index, text in enumerate(texts) if "Worker Label" in text)
            texts[first + 1 :] = texts[first:-1]
            texts[first] = drawn[first][1]
        images = [self.encoded(image, inside) for image, inside, _, _ in drawn]
        if self.backwards:
            images.reverse()
        if self.grid:
            grid = Image.new("RGB", (2 * job["width"], job["height"]), "white")
            images.insert(0, self.encoded(grid, drawn[0][1]))
            texts.insert(0, texts[0])
        info = {"all_seeds": [seed for *_, seed in drawn], "infotexts": texts}
        return {"images": images, "parameters": {}, "info": json.dumps(info)}

    def encoded(self, image, text):
        data, out = PngInfo(), io.BytesIO()
        if self.text_inside:
            data.add_text("parameters", text)
        image.save(out, self.kind, **({"pnginfo": data} if self.kind == "PNG" else {}))
        return base64.b64encode(out.getvalue()).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers for the stand-in that its server has."""

    @property
    def standin(self):
        return self.server.standin

    def log_message(self, *args):
        """Nothing on the tests' stderr."""

    def reply(self, value, code=200):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self):
        wanted = "Basic " + base64.b64encode(self.standin.auth.encode()).decode()
        if self.standin.auth and self.headers.get("Authorization") != wanted:
            self.reply({"detail": "Incorrect username or password"}, 401)
            return True
        return False

    def do_GET(self):  # noqa: N802
        routes = {
            "/sdapi/v1/scripts": {"txt2img": self.standin.scripts, "img2img": []},
            "/sdapi/v1/options": {"sd_model_checkpoint": self.standin.model},
        }
        if not self.refused():
            known = self.path in routes
            self.reply(routes.get(self.path, {"detail": "Not Found"}), 200 if known else 404)

    def do_POST(self):  # noqa: N802
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        self.standin.jobs.append(job)
        if self.standin.before_job:
            self.standin.before_job(len(self.standin.jobs))
        fault = self.standin.faults.pop(0) if self.standin.faults else ""
        if fault == "drop":
            self.close_connection = True
        elif fault == "not json":
            self.reply(b"<html>Bad gateway</html>")
        elif fault == "broken picture":
            self.reply({"images": ["iVBORw0KGgo="], "info": "{}"})
        elif fault == "other seeds":
            self.reply(self.standin.answer({**job, "seed": job["seed"] + 1000}))
        elif fault.isdigit():
            self.reply({"detail": "CUDA out of memory"}, int(fault))
        else:
            self.reply(self.standin.answer(job))


@contextmanager
def serving(standin):
    """Serves it on a free port of this machine until the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.standin = standin
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
