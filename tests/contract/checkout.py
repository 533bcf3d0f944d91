"""A user's own WebUI checkout in this process: no server, no page, no checkpoint.

Booted as its launcher does it, from a data folder with this extension's script in it. A job then runs through
the host's own job object, prompt parser, script runner, CFG denoiser, sampling function, patcher and network
class; only the text encoder, the scaling around the network and the sampler's loop are stand-ins.
"""

import os
import shutil
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import torch

from tests import host_table
from tests.live.serving import ROOT

FLAGS = ("--skip-torch-cuda-test", "--skip-version-check", "--no-hashing", "--skip-prepare-environment")
# The CPU, and torch's attention, in the words of each host.
NEO_FLAGS = ("--cpu", "--use-pytorch-cross-attention", "--skip-python-version-check")
OTHER_FLAGS = ("--always-cpu", "--attention-pytorch", "--no-download-sd-model")
WIDTH, TOKENS = 32, 7


def boot(folder, data):
    """Imports the checkout's modules and loads its scripts, ours among them; its `modules` package."""
    script = data / "extensions" / "sd-webui-nag" / "scripts"
    script.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "nag_guidance.py", script)
    os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", SD_WEBUI_RESTARTING="1")
    flags = NEO_FLAGS if host_table.host_of(folder) == host_table.NEO else OTHER_FLAGS
    sys.argv = ["launch.py", *FLAGS, *flags, "--data-dir", str(data)]
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    from modules import launch_utils  # noqa: F401 - reads the flags, as the launcher does
    from modules_forge.initialization import initialize_forge

    initialize_forge()
    from modules import initialize

    initialize.imports()
    import modules.extra_networks
    import modules.infotext_utils
    import modules.sd_samplers
    from modules import extensions, scripts, shared

    shared.opts.data["live_previews_enable"] = False
    modules.sd_samplers.set_samplers()
    extensions.list_extensions()
    scripts.load_scripts()
    modules.extra_networks.initialize()
    return modules


def build_scripts(modules):
    """Every script of the txt2img tab with its controls, in a throw-away page; the runner."""
    import gradio as gr

    modules.script_callbacks.before_ui_callback()
    runner = modules.scripts.scripts_txt2img
    modules.scripts.scripts_current = runner
    with gr.Blocks():
        runner.initialize_scripts(is_img2img=False)
        runner.prepare_ui()
        runner.setup_ui()
    return runner


def unet():
    """A small UNet of the checkout's own class, seeded, with seven attentions over text."""
    sizes = {
        "in_channels": 4, "model_channels": 32, "out_channels": 4, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "num_heads": 4, "num_head_channels": -1, "use_spatial_transformer": True,
        "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "context_dim": WIDTH, "use_linear_in_transformer": False,
    }  # fmt: skip
    torch.manual_seed(0)
    if _is_backend():
        from backend.nn.unet import IntegratedUNet2DConditionModel

        return filled(IntegratedUNet2DConditionModel(**sizes))
    from ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from ldm_patched.modules import ops

    more = {"image_size": 32, "legacy": False, "dtype": torch.float32, "operations": ops.disable_weight_init}
    return filled(UNetModel(**sizes, **more))


def _is_backend():
    return (Path.cwd() / "backend").is_dir()


def filled(network):
    """Random weights everywhere: some classes leave them empty, and some layers start at zero."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0 if name.endswith("bias") else 1, 0.1)
    return network.eval()


class Model(torch.nn.Module):
    """What stands between the samplers and the network, where the hosts scale inputs and outputs."""

    def __init__(self, network):
        super().__init__()
        self.diffusion_model = network
        self.current_patcher = self.lora_loader = None
        self.predictor = self.model_sampling = self.config = self.model_config = None
        self.storage_dtype = self.computation_dtype = torch.float32

    def memory_required(self, *shape, **more):
        return 0

    def apply_model(self, x, t, c_crossattn=None, control=None, transformer_options=None, **more):
        more.pop("c_concat", None)
        return self.diffusion_model(
            x, t, context=c_crossattn, control=control, transformer_options=transformer_options, **more
        )


class Engine:
    """What the checkout asks a loaded model for."""

    is_sd1, is_sd2, is_sdxl, is_sd3, is_inpaint, use_distilled_cfg_scale = (
        True,
        False,
        False,
        False,
        False,
        False,
    )
    cond_stage_key, sd_checkpoint_info, cond_stage_model_empty_prompt = "txt", None, None
    filename = sd_model_hash = ""

    def __init__(self, network, embed=None):
        self.embed = embed or embedding
        self.model = self
        self.extra_generation_params = {}
        patcher = self._patcher(Model(network))
        self.forge_objects = SimpleNamespace(unet=patcher)
        self.original = patcher

    def _patcher(self, model):
        cpu = torch.device("cpu")
        if _is_backend():
            from backend.patcher.unet import UnetPatcher

            return UnetPatcher(model, load_device=cpu, offload_device=cpu, current_device=cpu)
        from modules_forge.unet_patcher import UnetPatcher

        return UnetPatcher(model, load_device=cpu, offload_device=cpu)

    def reset(self):
        """Before every sampling the hosts put the patcher without anybody's hooks back."""
        self.forge_objects = SimpleNamespace(unet=self.original)

    def set_clip_skip(self, number):
        pass

    def get_learned_conditioning(self, texts):
        conds = [self.embed(text) for text in texts]
        if isinstance(conds[0], dict):
            return {key: torch.stack([cond[key] for cond in conds]) for key in conds[0]}
        return torch.stack(conds)


def embedding(text, width=WIDTH):
    """(tokens, width) of a text, by its letters."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.strip().encode()))
    return torch.randn(TOKENS, width, generator=generator)


class Run:
    """One job of a checkout: `steps` calls of its own CFG denoiser on noise.

    p: the host's own job. noise, latent: what went in and came out. report: what NAG says it did.
    """

    def __init__(
        self, modules, runner, engine, nag=(), prompts=("a",), negative="b", cfg=1, steps=4, channels=4
    ):
        modules.sd_models.model_data.sd_model = engine
        modules.sd_models.model_data.was_loaded_at_least_once = True
        self.modules, self.engine, self.steps, self.cfg = modules, engine, steps, cfg
        self.p = self._job(runner, nag, list(prompts), negative)
        self.p.sampler = self._sampler()
        engine.reset()
        runner.process(self.p)
        c, uc = self._conditions()
        x = self.noise = torch.randn(len(prompts), channels, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            runner.process_before_every_sampling(self.p, x=x, noise=x, c=c, uc=uc)
            self.latent = self._sampled(x, c, uc)
        runner.postprocess_batch(self.p, images=[], batch_number=0)
        self.report = str(self.p.extra_generation_params.get("NAG report", ""))

    def _job(self, runner, nag, prompts, negative):
        p = self.modules.processing.StableDiffusionProcessingTxt2Img(
            prompt=prompts[0], negative_prompt=negative, steps=self.steps, cfg_scale=self.cfg,
            batch_size=len(prompts), width=64, height=64, sampler_name="Euler", seed=1,
        )  # fmt: skip
        (script,) = [s for s in runner.alwayson_scripts if s.title() == "NAG"]
        args = [0, *(getattr(control, "value", None) for control in runner.inputs[1:])]
        args[script.args_from : script.args_from + len(nag)] = nag
        p.scripts, p.script_args = runner, args
        p.seeds, p.prompts, p.negative_prompts = [1] * len(prompts), prompts, [negative] * len(prompts)
        p.extra_network_data = None
        return p

    def _conditions(self):
        """The schedules of prompt and negative, as the host's own parser makes them."""
        parser = self.modules.prompt_parser
        prompts, negatives = self.p.prompts, self.p.negative_prompts
        c = parser.get_multicond_learned_conditioning(self.engine, parser.SdConditioning(prompts), self.steps)
        if self.cfg == 1 and _is_backend():
            return c, None  # Forge main does not encode the negative then
        conditioning = parser.SdConditioning(negatives, is_negative_prompt=True)
        return c, parser.get_learned_conditioning(self.engine, conditioning, self.steps)

    def _sampled(self, x, c, uc):
        given = {"uncond": uc, "cond": c, "cond_scale": self.cfg, "s_min_uncond": 0.0}
        for step in range(self.steps):
            sigma = torch.full((len(x),), 1.0 - step / self.steps)
            out = self.p.sampler.model_wrap_cfg(x, sigma, image_cond=torch.zeros(len(x), 5, 1, 1), **given)
            x = x + (out - x) / self.steps
        return x

    def _sampler(self):
        """The host's denoiser as its samplers set it up."""
        from modules.sd_samplers_cfg_denoiser import CFGDenoiser

        class Denoiser(CFGDenoiser):
            @property
            def inner_model(self):
                return self.wrapped

        sampler = SimpleNamespace(last_latent=None, sampler_extra_args={})
        denoiser = sampler.model_wrap_cfg = Denoiser(sampler)
        denoiser.wrapped = SimpleNamespace(inner_model=self.engine)
        denoiser.p, denoiser.steps, denoiser.total_steps = self.p, self.steps, self.steps
        return sampler
