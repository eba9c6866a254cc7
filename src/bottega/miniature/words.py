"""Tokenizers of the miniature: CLIP's byte-level BPE and T5's unigram model, fitted to the drawn world's captions.

Both fall back to single letters, so that any text (a user's own captions) can be encoded, if without much meaning.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.data.circles import COLOUR_NAMES, circle_prompt
from bottega.miniature.painters import painter
from bottega.miniature.scenes import scene

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

CLIP_LENGTH = 77
STYLE_PHRASE = "in the style of"


def corpus() -> Iterator[str]:
    """Every word the world uses, in the sentences it uses them in."""
    for index in range(2000):
        yield scene(index).caption(index)
        yield f"{STYLE_PHRASE} {painter(index).words}"
    for name in COLOUR_NAMES:
        yield circle_prompt(name, "white")
    yield "a painting, a picture, a photograph, a drawing of"


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Fit and save CLIP's tokenizer: 256 bytes, the same ending a word, then merges."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    fitted = Tokenizer(BPE(end_of_word_suffix="</w>"))
    fitted.normalizer = plain.backend_tokenizer.normalizer
    fitted.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fitted.train_from_iterator(
        corpus(), BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    )
    import json

    merges = [
        tuple(m) if not isinstance(m, str) else tuple(m.split(" "))
        for m in json.loads(fitted.to_str())["model"]["merges"]
    ]
    tokens = [
        *alphabet,
        *(a + "</w>" for a in alphabet),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5_tokenizer(folder: Path) -> T5Tokenizer:
    """Build and save T5's tokenizer: each word of the world is a piece, letters are the expensive way out."""
    from transformers import T5Tokenizer

    words = sorted({word for text in corpus() for word in text.replace(",", " ,").split()})
    letters = [c for c in string.printable if not c.isspace()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -3.0) for word in words] + [(letter, -9.0) for letter in letters]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=120)
    tokenizer.save_pretrained(folder)
    return tokenizer
