"""Small random models of diffusers' own classes, and how each is called. Imported by tests that need
diffusers.
"""

from __future__ import annotations

import inspect

import pytest
import torch

BATCH = 4  # two rows of other texts in front, two of prompts


def _normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Case:
    """One family. `text`: width of the text the model gets; `pos`, `neg`: tokens of prompt and negative.

    `image`: image tokens of a joint model. `masked`: the model takes the text's mask; `call` runs it on rows
    of text with it.
    """

    text, pos, neg = 24, 9, 6
    masked = False
    joint, image, image_first = False, 20, False
    listed = False  # the texts, and not in one tensor
    target = None  # how many of the image tokens are the picture's, which come first; all unless said

    def model(self, dtype):
        torch.manual_seed(5)
        try:
            model = self.build().to(torch.float64)
        except ImportError as error:
            pytest.skip(f"this diffusers has no such model: {error}")
        generator = torch.Generator().manual_seed(6)
        for parameter in model.parameters():  # some begin as zeros: nothing of the text would be seen
            scale = 1.0 if parameter.dim() < 2 else 1.6 / parameter.flatten(1).shape[1] ** 0.5
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
        return model.to(dtype).eval().requires_grad_(False)

    def context(self, rows, tokens, seed):
        return _normal(rows, tokens, self.text, seed=seed)

    def mask(self, rows, tokens):
        """Of another length in every row."""
        lengths = torch.arange(rows) % 3 + tokens - 4
        return (torch.arange(tokens) < lengths[:, None]).to(torch.float64)


class SD15(Case):
    def build(self, **more):
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=self.text, attention_head_dim=2, **more,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None, **more):
        dtype = context.dtype
        return model(_normal(rows, 4, 8, 8, seed=1).to(dtype), torch.full((rows,), 500), context, **more)[0]


class SDXL(SD15):
    def build(self):
        return super().build(
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
            use_linear_projection=True, transformer_layers_per_block=2,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        added = {
            "text_embeds": _normal(rows, 16, seed=2).to(context),
            "time_ids": _normal(rows, 6, seed=3).to(context),
        }
        return super().call(model, rows, context, added_cond_kwargs=added)


class PixArt(Case):
    masked = True

    def build(self):
        from diffusers import PixArtTransformer2DModel

        return PixArtTransformer2DModel(
            sample_size=8, num_layers=2, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
            caption_channels=self.text, in_channels=4, out_channels=8, use_additional_conditions=False,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        conditions = {"resolution": None, "aspect_ratio": None}
        return model(
            _normal(rows, 4, 8, 8, seed=1).to(context), context, timestep=torch.full((rows,), 500),
            added_cond_kwargs=conditions, encoder_attention_mask=mask,
        )[0]  # fmt: skip


class Sana(Case):
    masked = True

    def build(self):
        from diffusers import SanaTransformer2DModel

        return SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            caption_channels=self.text, sample_size=8,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        time = torch.full((rows,), 500)
        return model(_normal(rows, 4, 8, 8, seed=1).to(context), context, time, encoder_attention_mask=mask)[
            0
        ]


class Wan(Case):
    """The text is padded with zeros, here to 14 tokens (the real ones have 512)."""

    neg, layers = 14, 2

    def build(self, **more):
        from diffusers import WanTransformer3DModel

        config = {"in_channels": 4, **more}
        return WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, out_channels=4, text_dim=self.text, freq_dim=16,
            ffn_dim=24, num_layers=self.layers, cross_attn_norm=True, rope_max_seq_len=32, **config,
        )  # fmt: skip

    def context(self, rows, tokens, seed):
        context = super().context(rows, tokens, seed)
        for row in range(rows):
            context[row, 4 + row % 2 :] = 0
        return context

    def call(self, model, rows, context, mask=None, channels=4, **more):
        latent = _normal(rows, channels, 2, 4, 4, seed=1).to(context)
        return model(latent, torch.full((rows,), 500), context, **more)[0]


class WanI2V(Wan):
    """The model takes the last 512 tokens for the text."""

    pos = neg = 512

    def build(self):
        return super().build(image_dim=8, added_kv_proj_dim=24, in_channels=9)

    def call(self, model, rows, context, mask=None):
        image = _normal(rows, 5, 8, seed=7).to(context)
        return super().call(model, rows, context, channels=9, encoder_hidden_states_image=image)


class Flux(Case):
    joint = True

    def build(self):
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=self.text, pooled_projection_dim=10, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip

    def call(self, model, rows, context, mask=None, pooled=True):
        grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0)).to(context)
        ids = torch.cat([torch.zeros(20, 1).to(context), grid], 1)
        more = (
            {"pooled_projections": self.per_image(rows, 10, 2, context)}
            if pooled
            else {"attention_mask": mask}
        )
        return model(
            self.per_image(rows, (20, 4), 1, context), context, timestep=torch.full((rows,), 0.5).to(context),
            img_ids=ids, txt_ids=torch.zeros(context.shape[1], 3).to(context), **more,
        )[0]  # fmt: skip

    def per_image(self, rows, shape, seed, like):
        """The first BATCH rows apart; more of them (the reference's) repeat the last two."""
        shape = shape if isinstance(shape, tuple) else (shape,)
        known = _normal(BATCH, *shape, seed=seed).to(like)
        return known[[*range(BATCH), *[BATCH - 2, BATCH - 1] * BATCH][:rows]]


class Chroma(Flux):
    masked = True
    neg = 9

    def build(self):
        from diffusers import ChromaTransformer2DModel

        return ChromaTransformer2DModel(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=self.text, axes_dims_rope=(4, 4, 8), approximator_num_channels=8,
            approximator_hidden_dim=16, approximator_layers=1,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(rows, 20)], 1)
        return super().call(model, rows, context, mask, pooled=False)


class SD3(Flux):
    """The first block has a second attention among the image tokens alone, as SD3.5-Medium's do."""

    image, image_first = 16, True

    def build(self):
        from diffusers import SD3Transformer2DModel

        return SD3Transformer2DModel(
            sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
            num_attention_heads=4, caption_projection_dim=32,
            joint_attention_dim=self.text, pooled_projection_dim=10,
            pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        pooled = self.per_image(rows, 10, 2, context)
        return model(self.per_image(rows, (4, 8, 8), 1, context), context, pooled, torch.full((rows,), 500))[
            0
        ]


class Kontext(Flux):
    """Flux with a reference image of another size behind the picture."""

    image, target = 32, 20

    def call(self, model, rows, context, mask=None):
        grids = [torch.cartesian_prod(torch.arange(4.0), torch.arange(n)) for n in (5.0, 3.0)]
        ids = torch.cat([torch.nn.functional.pad(one, (1, 0), value=n) for n, one in enumerate(grids)])
        return model(
            self.per_image(rows, (self.image, 4), 1, context), context,
            timestep=torch.full((rows,), 0.5).to(context), img_ids=ids.to(context),
            txt_ids=torch.zeros(context.shape[1], 3).to(context),
            pooled_projections=self.per_image(rows, 10, 2, context),
        )[0]  # fmt: skip


class Klein(Flux):
    """Text tokens are numbered along the last of four axes; there is no pooled vector. With a reference."""

    image, target, neg = 32, 20, 12

    def build(self):
        from diffusers import Flux2Transformer2DModel

        return Flux2Transformer2DModel(
            in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=self.text, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        grids = [
            torch.cartesian_prod(*(torch.arange(n) for n in size)) for size in ((1, 4, 5, 1), (1, 4, 3, 1))
        ]
        grids[1][:, 0] = 10
        words = torch.zeros(context.shape[1], 4)
        words[:, 3] = torch.arange(context.shape[1])
        return model(
            self.per_image(rows, (self.image, 4), 1, context), context,
            timestep=torch.full((rows,), 0.5).to(context), img_ids=torch.cat(grids).to(context)[None],
            txt_ids=words.to(context)[None],
        )[0]  # fmt: skip


class Qwen(Flux):
    shapes, more = ((1, 4, 5),), {}

    def build(self):
        from diffusers import QwenImageTransformer2DModel

        return QwenImageTransformer2DModel(
            in_channels=4, out_channels=1, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=self.text, axes_dims_rope=(8, 4, 4), **self.more,
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        more = {}
        if "txt_seq_lens" in inspect.signature(type(model).forward).parameters:  # until diffusers 0.38
            more["txt_seq_lens"] = [context.shape[1]] * rows
        return model(
            self.per_image(rows, (self.image, 4), 1, context), context,
            timestep=torch.full((rows,), 0.5).to(context), img_shapes=[list(self.shapes)] * rows,
            encoder_hidden_states_mask=torch.ones(rows, context.shape[1]).long(), **more,
        )[0]  # fmt: skip


class QwenEdit(Qwen):
    """With two reference images, as Edit-Plus has them."""

    image, target = 38, 20
    shapes = ((1, 4, 5), (1, 3, 4), (1, 2, 3))


class Qwen21(Flux):
    """Text that never sees the image. In the reference all texts are as long as the prompt."""

    def build(self):
        from diffusers import QwenImage21Transformer2DModel

        return QwenImage21Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            context_in_dim=self.text, axes_dims_rope=(8, 4, 4),
        )  # fmt: skip

    def call(self, model, rows, context, mask=None, time=0.5, **more):
        tokens = context.shape[1] + self.image // 4
        return model(
            self.per_image(rows, (self.image, 4), 1, context), context,
            timestep=torch.full((rows,), time).to(context), img_shapes=[[(1, 4, 5)]] * rows,
            img_mask=(torch.arange(tokens) >= context.shape[1]).expand(rows, -1), **more,
        )[0][:, -self.image :]  # fmt: skip


class ZImage(Flux):
    """Texts come as a list, each with its own length; the model pads text and image to multiples of 32."""

    listed, image = True, 32

    def build(self):
        from diffusers import ZImageTransformer2DModel

        return ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=2, n_heads=2, n_kv_heads=2,
            cap_feat_dim=self.text, axes_dims=[8, 4, 4], axes_lens=[1024, 16, 16],
        )  # fmt: skip

    def call(self, model, rows, context, mask=None):
        latents = self.per_image(rows, (4, 1, 8, 10), 1, context[0])
        times = torch.full((rows,), 0.5).to(context[0])
        return torch.stack(model(list(latents), times, list(context), return_dict=False)[0])


class ZImageLong(ZImage):
    """Of texts that take one multiple and two."""

    neg = 37

    def context(self, rows, tokens, seed):
        return [one[: 40 - 31 * (row % 2)] for row, one in enumerate(super().context(rows, 40, seed))]


CASES = {
    "sd15": SD15(), "sdxl": SDXL(), "pixart": PixArt(), "sana": Sana(), "wan": Wan(), "wan-i2v": WanI2V(),
    "flux": Flux(), "chroma": Chroma(), "sd3": SD3(), "qwen-image": Qwen(),
    "kontext": Kontext(), "qwen-edit": QwenEdit(), "z-image": ZImage(), "z-image-long": ZImageLong(),
    "klein": Klein(), "qwen-image-2.1": Qwen21(),
}  # fmt: skip
