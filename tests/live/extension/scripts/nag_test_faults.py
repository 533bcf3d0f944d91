"""Test-only WebUI extension: makes things go wrong in the middle of a denoising step when asked to.

Copy tests/live/extension into a WebUI's extensions folder to run the fault tests of tests/live against it.
"""

import contextlib
import itertools

import gradio as gr
import torch
from modules import scripts, shared

# Where networks other than UNets keep their blocks: Flux, SD3.5, Qwen-Image, Z-Image and Ernie, others.
BLOCKS = ("double_blocks", "joint_blocks", "transformer_blocks", "layers", "blocks")


def fail_in_block(block, step, current):
    """Where there is no patch for attn2 (A1111, SD.Next, any DiT): `block`, its second one, raises; ours has
    run in the first one by then. current: the step that runs. Returns what ends it.
    """

    def fail(*_):
        if current() >= step:
            hook.remove()
            raise RuntimeError("thrown by the NAG test faults script")

    hook = block.register_forward_pre_hook(fail)
    return hook.remove


def run_out_of_memory(step, current):
    """NAG finds no memory for its own part of the attention, from that step on; returns what ends it."""
    from nag_core.method.rule import Rule

    original = Rule.fused

    def fused(rule, like):
        if current() >= step:
            raise torch.cuda.OutOfMemoryError("simulated by the NAG test faults script")
        return original(rule, like)

    Rule.fused = fused
    return lambda: setattr(Rule, "fused", original)


def cross_attentions(network):
    return [module for name, module in network.named_modules() if name.endswith(".attn2")]


class Faults(scripts.Script):
    """Argument 0: the step (counted from 0) in which an exception is thrown; argument 1: the step from which
    on NAG's part of the attention is out of memory. -1 for never.
    """

    def __init__(self):
        super().__init__()
        self.faults = contextlib.ExitStack()

    def title(self):
        return "NAG test faults"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [
            gr.Number(-1, label="Fail at step", visible=False),
            gr.Number(-1, label="No memory from step", visible=False),
        ]

    def process(self, p, step=-1, no_memory=-1, *args):
        self.faults.close()
        wanted = any(one is not None and one >= 0 for one in (step, no_memory))
        if not wanted or hasattr(scripts.Script, "process_before_every_sampling"):
            return
        # SD.Next has a pipeline and no sampler of ours to ask: a step is a call of the network.
        network = getattr(shared.sd_model, "unet", None) or shared.sd_model.transformer
        state, calls = {}, itertools.count()
        counting = network.register_forward_pre_hook(lambda *_: state.update(step=next(calls)))
        self.faults.callback(counting.remove)
        blocks = cross_attentions(network) or network.transformer_blocks
        self.arrange(lambda: state["step"], step, no_memory, blocks)

    def postprocess(self, p, processed, *args):
        self.faults.close()

    def arrange(self, current, step, no_memory, blocks):
        """The faults that a job asks for, the exception in the second of `blocks`."""
        if no_memory is not None and no_memory >= 0:
            self.faults.callback(run_out_of_memory(int(no_memory), current))
        if step is not None and step >= 0:
            self.faults.callback(fail_in_block(blocks[1], int(step), current))

    def process_before_every_sampling(self, p, step=-1, no_memory=-1, **kwargs):
        self.faults.close()

        def current():
            return p.sampler.model_wrap_cfg.step

        if not hasattr(p.sd_model, "forge_objects"):
            self.arrange(current, step, no_memory, cross_attentions(p.sd_model.model.diffusion_model))
            return
        unet = p.sd_model.forge_objects.unet.clone()
        network = unet.model.diffusion_model
        blocks = next((getattr(network, name) for name in BLOCKS if hasattr(network, name)), None)
        if blocks is not None or step is None or step < 0:
            self.arrange(current, step, no_memory, blocks)
            return
        self.arrange(current, -1, no_memory, blocks)
        calls = []

        def fail(n, context, value, extra):
            # The second cross-attention of a call: ours has run in the first one by then.
            calls.append(current())
            if calls.count(int(step)) == 2:
                raise RuntimeError("thrown by the NAG test faults script")
            return n, context, value

        unet.set_model_attn2_patch(fail)
        p.sd_model.forge_objects.unet = unet
