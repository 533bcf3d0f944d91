"""Whole diffusers pipelines of small random parts, made without downloads: tokenizer, encoders, model,
VAE.
"""

from __future__ import annotations

import pytest
import torch

from tests import diffusers_vision as vision
from tests.diffusers_models import CASES
from tests.diffusers_words import chat_tokenizer, size, tokenizer

SIZE = 32


def clip(width, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=size(), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=width, bos_token_id=2, eos_token_id=size() - 1, pad_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=size(), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)
    )


def kl(channels=4, **more):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8), norm_num_groups=4, latent_channels=channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **more,
    )  # fmt: skip


def model(name, text):
    """The model of tests/diffusers_models.py, for texts of that width."""
    case = CASES[name]
    before, type(case).text = type(case).text, text
    try:
        return case.model(torch.float32)
    finally:
        type(case).text = before


def sd15():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        kl(),
        clip(24),
        tokenizer(77),
        model("sd15", 24),
        DDIMScheduler(),
        None,
        None,
        requires_safety_checker=False,
    )


def sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        kl(), clip(16), clip(16, projected=True), tokenizer(77), tokenizer(77), model("sdxl", 32),
        EulerDiscreteScheduler(),
    )  # fmt: skip


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    vae = kl(1, shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae,
        clip(10),
        tokenizer(77),
        t5(24),
        tokenizer(77),
        model("flux", 24),
    )


def chroma():
    from diffusers import ChromaPipeline, FlowMatchEulerDiscreteScheduler

    vae = kl(1, shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)
    return ChromaPipeline(FlowMatchEulerDiscreteScheduler(), vae, t5(24), tokenizer(77), model("chroma", 24))


def sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    vae = kl(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)
    return StableDiffusion3Pipeline(
        model("sd3", 24), FlowMatchEulerDiscreteScheduler(), vae, clip(4, projected=True), tokenizer(77),
        clip(6, projected=True), tokenizer(77), t5(24), tokenizer(77),
    )  # fmt: skip


def pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    return PixArtSigmaPipeline(
        tokenizer(77), t5(24), kl(), model("pixart", 24), DPMSolverMultistepScheduler()
    )


def sana():
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline
    from transformers import Gemma2Config, Gemma2Model

    vae = AutoencoderDC(
        latent_channels=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()),
        attention_head_dim=4, upsample_block_type="interpolate", downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm", decoder_act_fns="silu",
    )  # fmt: skip
    encoder = Gemma2Model(Gemma2Config(
        vocab_size=size(), hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=size() - 1, bos_token_id=2,
    ))  # fmt: skip
    return SanaPipeline(tokenizer(77), encoder, vae, model("sana", 24), DPMSolverMultistepScheduler())


def wan():
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import UMT5Config, UMT5EncoderModel

    vae = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=size(), d_model=24, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
    )
    wan_model = model("wan", 24)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return WanPipeline(tokenizer(512), encoder, vae, scheduler, transformer=wan_model)


def qwen3(width, layers):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=size(), hidden_size=width, intermediate_size=32, num_hidden_layers=layers, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
    ))  # fmt: skip


def z_image():
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    vae = kl(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler()
    return ZImagePipeline(scheduler, vae, qwen3(24, 2), chat_tokenizer(512), model("z-image", 24))


def klein(kind="Flux2KleinPipeline"):
    import diffusers

    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 8), norm_num_groups=4, latent_channels=1, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = scheduler, vae, qwen3(8, 3), chat_tokenizer(64), model("klein", 24)
    return getattr(diffusers, kind)(*parts)


def kontext():
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**flux().components)


def qwen_image():
    from diffusers import QwenImagePipeline

    return QwenImagePipeline(**qwen_parts())


def qwen_edit():
    from diffusers import QwenImageEditPipeline

    return QwenImageEditPipeline(**qwen_parts(), processor=vision.Processor())


def qwen_edit_plus():
    from diffusers import QwenImageEditPlusPipeline

    return QwenImageEditPlusPipeline(**qwen_parts(), processor=vision.Processor())


def qwen_image_21():
    """With Qwen-Image's VAE, which takes no part: the latents are looked at."""
    from diffusers import QwenImage21Pipeline

    parts = {name: part for name, part in qwen_parts().items() if name != "tokenizer"}
    return QwenImage21Pipeline(
        **parts | {"transformer": model("qwen-image-2.1", 24)}, processor=vision.Processor()
    )


def qwen_parts():
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler

    vae = AutoencoderKLQwenImage(
        base_dim=3, z_dim=1, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0], latents_std=[1.0],
    )  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(), "vae": vae, "text_encoder": vision.encoder(24),
        "tokenizer": vision.vision_tokenizer(), "transformer": model("qwen-image", 24),
    }  # fmt: skip


BUILD = {
    "sd15": sd15, "sdxl": sdxl, "flux": flux, "chroma": chroma, "sd3": sd3, "pixart": pixart, "sana": sana,
    "wan": wan, "qwen-image": qwen_image, "z-image": z_image, "klein": klein,
    "qwen-image-2.1": qwen_image_21,
}  # fmt: skip
# They take reference images.
EDITING = {
    "kontext": kontext, "qwen-edit": qwen_edit, "qwen-edit-plus": qwen_edit_plus, "klein-edit": klein,
}  # fmt: skip
# What a call needs beside prompt, steps, size and generator.
CALL = {
    "pixart": {"use_resolution_binning": False, "clean_caption": False},
    "sana": {"use_resolution_binning": False, "complex_human_instruction": None},
    "wan": {"num_frames": 5},
    "klein": {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": 16},
    "klein-edit": {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": 16},
}
# The argument that sets CFG, and its value with CFG off and on; some need a negative prompt for it, too.
TRUE_CFG = ("flux", "qwen-image", "qwen-image-2.1", "kontext", "qwen-edit", "qwen-edit-plus")
CFG = dict.fromkeys(TRUE_CFG, ("true_cfg_scale", 1.0, 3.0)) | {"z-image": ("guidance_scale", 0.0, 3.0)}


def pipeline(family):
    torch.manual_seed(0)
    try:
        pipe = (BUILD | EDITING)[family]()
    except (ImportError, AttributeError) as error:
        pytest.skip(f"this diffusers has no such pipeline: {error}")
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            part.eval()
            for parameter in part.parameters() if name.startswith("text_encoder") else ():
                # So that texts differ: the initial weights of encoders hardly tell words apart.
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(name, pipe, prompt="a red circle", cfg=False, seed=3, images=1, steps=2, **more):
    """Latents (images, ...)."""
    key, off, on = CFG.get(name, ("guidance_scale", 1.0, 3.0))
    more = {**CALL.get(name, {}), key: on if cfg else off, **more}
    more["num_videos_per_prompt" if name == "wan" else "num_images_per_prompt"] = images
    if cfg and name in TRUE_CFG:
        more.setdefault("negative_prompt", "dark" if isinstance(prompt, str) else ["dark"] * len(prompt))
    side = 16 if name == "wan" else SIZE
    generator = torch.Generator().manual_seed(seed)
    out = pipe(
        prompt=list(prompt) if isinstance(prompt, list) else prompt,  # Z-Image's pipeline writes into it
        num_inference_steps=steps, height=side, width=side,
        **{"generator": generator, "output_type": "latent", **more},
    )  # fmt: skip
    return out.frames if name == "wan" else out.images
