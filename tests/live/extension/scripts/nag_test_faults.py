"""Test-only WebUI extension: makes things go wrong in the middle of a denoising step when asked to.

Copy tests/live/extension into a WebUI's extensions folder to run the fault tests of tests/live against it.
"""

import gradio as gr
import torch
from modules import scripts

# Where networks other than UNets keep their blocks: Flux, SD3.5, Qwen-Image, Z-Image and Ernie, others.
BLOCKS = ("double_blocks", "joint_blocks", "transformer_blocks", "layers", "blocks")


def fail_in_block(block, step, p):
    """Where there is no patch for attn2 (A1111, any DiT): `block`, its second one, raises; ours has
    run in the first one by then.
    """

    def fail(*_):
        if p.sampler.model_wrap_cfg.step >= step:
            hook.remove()
            raise RuntimeError("thrown by the NAG test faults script")

    hook = block.register_forward_pre_hook(fail)


def run_out_of_memory(step, p):
    """NAG finds no memory for its own part of the attention, from that step on; returns what ends it."""
    from nag_core.method.rule import Rule

    original = Rule.fused

    def fused(rule, like):
        if p.sampler.model_wrap_cfg.step >= step:
            raise torch.cuda.OutOfMemoryError("simulated by the NAG test faults script")
        return original(rule, like)

    Rule.fused = fused
    return lambda: setattr(Rule, "fused", original)


class Faults(scripts.Script):
    """Argument 0: the step (counted from 0) in which an exception is thrown; argument 1: the step from which
    on NAG's part of the attention is out of memory. -1 for never.
    """

    def __init__(self):
        super().__init__()
        self.end_of_shortage = lambda: None

    def title(self):
        return "NAG test faults"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [
            gr.Number(-1, label="Fail at step", visible=False),
            gr.Number(-1, label="No memory from step", visible=False),
        ]

    def process(self, p, *args):
        self.end_of_shortage()

    def postprocess(self, p, processed, *args):
        self.end_of_shortage()

    def process_before_every_sampling(self, p, step=-1, no_memory=-1, **kwargs):
        if no_memory is not None and no_memory >= 0:
            self.end_of_shortage()
            self.end_of_shortage = run_out_of_memory(int(no_memory), p)
        if step is None or step < 0:
            return
        if not hasattr(p.sd_model, "forge_objects"):
            modules = p.sd_model.model.diffusion_model.named_modules()
            attentions = [module for name, module in modules if name.endswith(".attn2")]
            fail_in_block(attentions[1], int(step), p)
            return
        unet = p.sd_model.forge_objects.unet.clone()
        network = unet.model.diffusion_model
        blocks = next((getattr(network, name) for name in BLOCKS if hasattr(network, name)), None)
        if blocks is not None:
            fail_in_block(blocks[1], int(step), p)
            return
        calls = []

        def fail(n, context, value, extra):
            # The second cross-attention of a call: ours has run in the first one by then.
            calls.append(p.sampler.model_wrap_cfg.step)
            if calls.count(int(step)) == 2:
                raise RuntimeError("thrown by the NAG test faults script")
            return n, context, value

        unet.set_model_attn2_patch(fail)
        p.sd_model.forge_objects.unet = unet
