"""A script that does to a job what stable-diffusion-webui-distributed does, as far as NAG can tell.

Its `before_process` packs the arguments of all scripts and the job's own fields as JSON and has another
machine draw its share; `postprocess_batch_list` puts those pictures behind the last batch's, and
`postprocess` their texts beside them. The other machine is the same host in a thread of its own.
"""

import dataclasses
import inspect
import json
import threading
from contextlib import contextmanager
from unittest.mock import patch

import torch

from nag_core.settings.user_presets import Store

LABEL = ", Worker Label: elsewhere"
NOT_SENT = ("sd_model", "override_settings", "outpath_samples", "comments", "sampler_index")


@contextmanager
def another_machine(host, script, folder, default_negative=""):
    """What is saved there is not what is saved here: the presets in `folder` and a default negative."""
    saved = inspect.unwrap(type(script).process).__globals__["PRESETS"]
    data = {**host.shared.opts.data, "nag_default_negative": default_negative}
    with (
        patch.object(saved, "path", Store(folder / "nag_presets.json").path),
        patch.object(host.shared.opts, "data", data),
    ):
        yield


class Distribute:
    """The script. machine: a context in which the other machine is, which draws `share` of each batch."""

    args_from = args_to = 0
    filename, name, alwayson = "distributed.py", "distribute", True
    away = False

    def __init__(self, host, prepared, machine, share, has_nag):
        self.host, self.prepared, self.machine = host, prepared, machine
        self.share, self.has_nag = share, has_nag

    def title(self):
        return "Distribute"

    def before_process(self, p, *args):
        if self.away:
            return
        packed = {s.title(): p.script_args[s.args_from : s.args_to] for s in p.scripts.alwayson_scripts}
        sent = json.dumps([self.fields(p), packed])
        self.away = True
        drawing = threading.Thread(target=self.draw, args=json.loads(sent))
        drawing.start()
        drawing.join()
        self.away = False
        p.batch_size -= self.share

    def fields(self, p):
        """What is drawn here comes first, so the other machine begins at a later seed."""
        self.host.processing.fix_seed(p)
        fields = {one.name: getattr(p, one.name) for one in dataclasses.fields(p) if one.init}
        before = (p.batch_size - self.share) * p.n_iter
        fields["seed"] += before if p.subseed_strength == 0 else 0
        fields["subseed"] += before
        fields.update(batch_size=self.share, do_not_save_grid=True)
        return {name: value for name, value in fields.items() if name not in NOT_SENT}

    def draw(self, fields, packed):
        nag = packed["NAG"] if self.has_nag else ()
        with self.machine, torch.inference_mode(), self.prepared(nag, **fields) as p:
            self.sent, self.drawn = packed["NAG"], self.host.processing.process_images(p)

    def postprocess_batch_list(self, p, pp, *args, batch_number=0):
        if self.away or batch_number + 1 < p.n_iter:
            return
        for name in ("seeds", "subseeds", "prompts", "negative_prompts"):
            getattr(p, name).extend(getattr(self.drawn, f"all_{name}"))
        pp.images.extend(map(as_tensor, self.drawn.images))
        p.batch_size = len(pp.images)

    def postprocess(self, p, processed, *args):
        if not self.away:
            for place, text in enumerate(self.drawn.infotexts, -len(self.drawn.infotexts)):
                processed.infotexts[place] = text + LABEL


def distribute(host, prepared, machine, share=2, has_nag=True):
    """The script as the host's; see `Distribute`."""
    kind = type("Distributed", (Distribute, host.scripts.Script), {})
    return kind(host, prepared, machine, share, has_nag)


def as_tensor(picture):
    """(3, h, w) in [0, 1], as a batch's own pictures are."""
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
