"""Tokenizers of the miniature: CLIP's byte-level BPE and T5's unigram model, fitted to the drawn world's sentences.

Both fall back to single letters, so that any text (a user's own captions) can be encoded, if without much meaning.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.miniature.words import sentences

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

CLIP_LENGTH = 77  # tokens, CLIP's own; SDXL's U-Net attends to all of them, padding too
_CLIP_VOCABULARY = 900
_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Fit CLIP's tokenizer (256 bytes, the same at the end of a word, then merges) and save it in `folder`."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer(vocab={_START: 0, _END: 1}, merges=[])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fitted = Tokenizer(BPE(end_of_word_suffix="</w>"))
    fitted.normalizer = plain.backend_tokenizer.normalizer
    fitted.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=_CLIP_VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    fitted.train_from_iterator(sentences(), trainer)

    merges = []
    for merge in json.loads(fitted.to_str())["model"]["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge  # older versions of tokenizers join the pair
        merges.append(tuple(pair))
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += ["".join(merge) for merge in merges]
    tokens += [_START, _END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5_tokenizer(folder: Path) -> T5Tokenizer:
    """Build T5's tokenizer (each word of the world is a piece, letters cost more) and save it in `folder`."""
    from transformers import T5Tokenizer

    words = set()
    for sentence in sentences():
        words.update(sentence.replace(",", " ,").split())
    letters = [letter for letter in string.printable if not letter.isspace()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [("▁" + word, -3.0) for word in sorted(words)]
    pieces += [(letter, -9.0) for letter in letters]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=120)
    tokenizer.save_pretrained(folder)
    return tokenizer
