"""Beside a ControlNet, which reaches the UNet on Forge through the patcher's controlnet_linked_list."""

import pytest
import torch

ON = [{"enabled": True, "scale": 4}]
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "hr_cfg": 1, "hr_second_pass_steps": 6}
# Channels and the share of the latent's size of what the toy UNet's skips and its middle block carry.
SKIPS = [(48, 4), (48, 4), (48, 8), (64, 8)]
MIDDLE = (64, 8)


class ControlNet:
    """As much of Forge's ControlBase (backend/patcher/controlnet.py) as its sampling loop calls.

    Notes the text of every call: a real one is a copy of the UNet's encoder and runs on the same rows.
    """

    def __init__(self, texts):
        self.texts, self.previous_controlnet, self.transformer_options = texts, None, {}

    def set_previous_controlnet(self, controlnet):
        self.previous_controlnet = controlnet

    def get_control(self, x, t, cond, batched_number):
        assert len(t) == len(cond["c_crossattn"]) == len(x)
        self.texts.append(cond["c_crossattn"].tolist())
        generator = torch.Generator().manual_seed(3)
        # "ControlNet is more important" weighs the conditional rows alone.
        weight = (1 - self.transformer_options["cond_mark"])[:, None, None, None]

        def residual(channels, smaller):
            height, width = (side // smaller for side in x.shape[2:])
            return weight * torch.randn(1, channels, height, width, generator=generator)

        return {
            "input": [],
            "middle": [residual(*MIDDLE)],
            "output": [residual(*skip) for skip in SKIPS],
        }


@pytest.fixture(params=["before NAG", "after NAG"])
def draw(request, host, job, script, monkeypatch):
    """`draw(nag, control, **fields)`: the job beside a script that does what Forge's ControlNet script does.

    It gives the result and the texts that the ControlNet has seen, call by call.
    """

    class Script(host.scripts.Script):
        args_from = args_to = 0
        filename = "controlnet.py"

        def process_before_every_sampling(self, p, *args, **kwargs):
            unet = p.sd_model.forge_objects.unet.clone()
            unet.add_patched_controlnet(ControlNet(self.texts))
            p.sd_model.forge_objects.unet = unet

    def run(nag=(), control=True, **fields):
        theirs = Script()
        theirs.texts = []
        pair = [theirs, script] if request.param == "before NAG" else [script, theirs]
        scripts = pair if control else [script]
        monkeypatch.setattr(host.scripts.scripts_txt2img, "alwayson_scripts", scripts)
        _, processed = job(nag, **fields)
        return processed, theirs.texts

    return run


@pytest.mark.parametrize(
    ("fields", "passes"), [({}, 1), ({"cfg_scale": 4}, 1), (HIRES, 2)], ids=["cfg 1", "cfg 4", "hires"]
)
def test_controlnet_and_nag_both_act(draw, fields, passes):
    both, texts = draw(ON, **fields)
    control, texts_without = draw(**fields)
    nag, none = draw(ON, control=False, **fields)
    plain, _ = draw(control=False, **fields)
    pictures = [result.images[0].convert("RGB").tobytes() for result in (both, control, nag, plain)]
    assert len(set(pictures)) == 4
    assert none == []
    assert len(texts) == 4 * passes
    assert texts == texts_without, "the same calls on the same rows: NAG's negative is no row of the UNet"
    assert both.infotexts[0].count("7 layers × 4/4 steps") == passes
    assert "unguided" not in both.infotexts[0]


def test_scale_0_beside_a_controlnet_is_the_controlnets_own_picture(draw):
    neutral, _ = draw([{"enabled": True, "scale": 0}], cfg_scale=4)
    alone, _ = draw(cfg_scale=4)
    assert neutral.images[0].tobytes() == alone.images[0].tobytes()
