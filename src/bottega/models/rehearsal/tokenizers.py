"""Tokenizers that work without the published vocabularies, which are data: a few hundred pieces and single letters.

The models keep their published number of embeddings. CLIP's two marks have their published numbers, the last of all,
because the text encoders look for the highest one; every text still ends in them. Nothing a text says is understood,
and the number of its tokens is higher than with the published vocabulary, up to the limit at which both are cut.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

_START, _END = "<|startoftext|>", "<|endoftext|>"
_MARKS = {_START: 49406, _END: 49407}
_TEXT = (
    "a an the and of in on with at to is are by for from this that painting photo picture style colours light dark "
    "man woman people person dog cat horse bird tree house street car train table water sky sea mountain field red "
    "blue green yellow white black large small old young standing sitting walking holding looking next front side"
)
_WORDS = _TEXT.split()


def clip_files(padding: str = _END) -> Mapping[str, bytes]:
    """The files of a CLIP tokenizer: byte-level pairs as OpenAI published them, with the merges of a few words.

    Args:
        padding: the token that fills a text up; `!`, the first of all, in SDXL's second tokenizer.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merges = []
    for word in _WORDS:
        joined = word[0]
        for letter in [*word[1:-1], f"{word[-1]}</w>"] if len(word) > 1 else []:
            merges.append(f"{joined} {letter}")
            joined += letter
            tokens.append(joined)
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))} | _MARKS
    special = {"bos_token": _START, "eos_token": _END, "pad_token": padding, "unk_token": _END}
    settings = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 77, **special}
    return {
        "vocab.json": _json(vocabulary),
        "merges.txt": "\n".join(["#version: 0.2", *dict.fromkeys(merges)]).encode() + b"\n",
        "special_tokens_map.json": _json(special),
        "tokenizer_config.json": _json(settings),
    }


def t5_files() -> Mapping[str, bytes]:
    """The files of a T5 tokenizer: SentencePiece's own `spiece.model`, as T5 published it, of a few words."""
    import sentencepiece

    model = io.BytesIO()
    letters = [letter for word in _WORDS for letter in word]
    sentences = [" ".join(_WORDS), " ".join(reversed(_WORDS)), *_WORDS, *letters, "0 1 2 3 4 5 6 7 8 9 . , ; : ! ? - '"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 3),
        model_writer=model,
        model_type="unigram",
        vocab_size=160,
        hard_vocab_limit=False,
        character_coverage=1.0,
        # T5's own numbers: padding first, no mark of a beginning.
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 120, **special}
    return {
        "spiece.model": model.getvalue(),
        "special_tokens_map.json": _json(special),
        "tokenizer_config.json": _json(settings),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
