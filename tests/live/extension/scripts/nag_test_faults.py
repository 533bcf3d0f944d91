"""Test-only WebUI extension: raises in the middle of a denoising step when asked to by its one argument.

Copy tests/live/extension into a WebUI's extensions folder to run the fault tests of tests/live against it.
"""

import gradio as gr
from modules import scripts


def fail_in_block(block, step, p):
    """A DiT has no attn2 hooks: raises in its second block; ours has run in the first one by then."""

    def fail(*_):
        if p.sampler.model_wrap_cfg.step >= step:
            hook.remove()
            raise RuntimeError("thrown by the NAG test faults script")

    hook = block.register_forward_pre_hook(fail)


class Faults(scripts.Script):
    """Argument 0: the step (counted from 0) in which an exception is thrown; -1 for never."""

    def title(self):
        return "NAG test faults"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Number(-1, label="Fail at step", visible=False)]

    def process_before_every_sampling(self, p, step=-1, **kwargs):
        if step is None or step < 0:
            return
        unet = p.sd_model.forge_objects.unet.clone()
        network = unet.model.diffusion_model
        blocks = getattr(network, "double_blocks", None) or getattr(network, "joint_blocks", None)
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
