"""A tokenizer of few words, made without downloads."""

from __future__ import annotations

WORDS = ("a red blue green circle square of the on in with photo painting dog cat small large bright dark "
         "one two blurry ugly low quality").split()  # fmt: skip


def tokenizer(length):
    """Words by whitespace; eos has the highest number, by which CLIP finds it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<bos>", *WORDS, "<eos>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=length, pad_token="<pad>", unk_token="<unk>",
        bos_token="<bos>", eos_token="<eos>",
    )  # fmt: skip


def size():
    return len(WORDS) + 4


def chat_tokenizer(length):
    """With a template of one turn around a text."""
    made = tokenizer(length)
    made.chat_template = "{% for message in messages %}one {{ message['content'] }} the{% endfor %}"
    return made
