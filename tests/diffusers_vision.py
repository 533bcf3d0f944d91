"""A small random Qwen2.5-VL with what its pipelines need around it, made without downloads."""

from __future__ import annotations

import numpy as np
import torch

from tests.diffusers_words import tokenizer

SIDE, PATCH = 28, 14  # one picture is 2 x 2 patches, which are one token
SIGNS = [
    f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
]


def vision_tokenizer():
    made = tokenizer(512)
    made.add_tokens(SIGNS, special_tokens=True)
    return made


def encoder(width):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = vision_tokenizer()
    start, end, image, video = words.convert_tokens_to_ids(SIGNS[2:])
    text = {
        "vocab_size": len(words), "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 2, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    ))  # fmt: skip


class Processor:
    """Texts with places for pictures, and the pictures. The library's own needs torchvision."""

    def __init__(self):
        self.tokenizer = vision_tokenizer()

    def apply_chat_template(self, messages, tokenize=True, return_dict=False):
        """Of Qwen-Image 2.1's system message, for how many tokens it takes."""
        (part,) = messages[0]["content"]
        return [self.tokenizer(f"<|im_start|>system\n{part['text']}<|im_end|>\n")["input_ids"]]

    def __call__(self, text, images=None, **options):
        from transformers import BatchFeature

        images = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
        if sum(one.count("<|image_pad|>") for one in text) != len(images):
            raise ValueError("as many places as pictures")  # as the library's
        made = dict(self.tokenizer(text, **options))
        if images:
            made["pixel_values"] = torch.cat([self.patches(one) for one in images])
            made["image_grid_thw"] = torch.tensor([[1, 2, 2]] * len(images))
        return BatchFeature(made)

    @staticmethod
    def patches(image):
        """(patches, channels * 2 frames * pixels)."""
        pixels = torch.from_numpy(np.array(image.convert("RGB").resize((SIDE, SIDE)))).float() / 127.5 - 1
        split = pixels.reshape(2, PATCH, 2, PATCH, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
        return split.unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(1)
