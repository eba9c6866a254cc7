"""Captions to states for cross-attention: a learned encoder of known words, or a frozen CLIP text encoder.

Legend: B captions, L tokens, F width of their states. A caption is dropped (for classifier-free guidance) by passing
the empty one, which still has its start token.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bottega.ldm.config import TextConfig
from bottega.runtime.errors import MissingError, RequestError

LOGGER = logging.getLogger(__name__)
PAD = 0
START = 1
_SPECIAL_TOKENS = 2
_MAX_WARNINGS = 8
"""Warnings about captions that CLIP cuts off: a data set may hold thousands of them."""
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")


def words_of(caption: str) -> list[str]:
    """The words of a caption in lower case; each Chinese or Japanese character is a word of its own."""
    return _WORD.findall(caption.lower())


def vocabulary_of(captions: Iterable[str]) -> list[str]:
    """All words of some captions, sorted."""
    words: set[str] = set()
    for caption in captions:
        words.update(words_of(caption))
    return sorted(words)


def check_lengths(captions: Iterable[str], max_tokens: int) -> None:
    """Check that no caption has too many words.

    Raises:
        RequestError: names the longest one.
    """
    too_long: dict[str, int] = {}
    for caption in captions:
        count = len(words_of(caption))
        if count >= max_tokens:  # the start token takes one place
            too_long[caption] = count
    if not too_long:
        return
    longest = max(too_long, key=lambda caption: too_long[caption])
    others = f" (and too many in {len(too_long) - 1} more)" if len(too_long) > 1 else ""
    raise RequestError(
        f"a caption has at most {max_tokens - 1} words (text.max_tokens - 1; each Chinese character is one), "
        f"received {too_long[longest]} in {longest[:80]!r}{others}; shorten it, or train with text.max_tokens = "
        f"{too_long[longest] + 1}"
    )


class WordEncoder(nn.Module):
    """A small transformer over the words of a caption, trained with the denoiser.

    Its layers bind a colour to its object: the position of "orange" alone does not, for it is another one behind "light
    blue" than behind "red".
    A word that it does not know is left out, with one warning.

    Args:
        config: width, layers and the most tokens.
        vocabulary: all words that it knows.
    """

    def __init__(self, config: TextConfig, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.width = config.width
        self.limit = config.max_tokens
        self.vocabulary = list(vocabulary)
        self.ids = {word: number + _SPECIAL_TOKENS for number, word in enumerate(self.vocabulary)}
        self._warned: set[str] = set()
        self.embed = nn.Embedding(len(self.vocabulary) + _SPECIAL_TOKENS, config.width)
        self.place = nn.Parameter(0.1 * torch.randn(config.max_tokens, config.width))  # [max_tokens, F]
        layer = nn.TransformerEncoderLayer(
            d_model=config.width,
            nhead=config.width // 8,
            dim_feedforward=2 * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded with 0 to the longest caption.

        Raises:
            RequestError: a caption has more than max_tokens - 1 words.
        """
        check_lengths(captions, self.limit)
        rows = [[START, *self._known_ids(caption)] for caption in captions]
        longest = max(len(row) for row in rows)
        padded = [row + [PAD] * (longest - len(row)) for row in rows]
        return torch.tensor(padded)  # [B, L]

    def knows_any(self, caption: str) -> bool:
        """Whether the caption holds at least one known word."""
        return any(word in self.ids for word in words_of(caption))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] -> states [B, L, F], and bool [B, L], True where a token counts."""
        counts = tokens != PAD  # [B, L]
        states = self.embed(tokens) + self.place[: tokens.shape[1]]  # [B, L, F]
        if len(self.layers.layers):  # torch's encoder fails without any layer
            states = self.layers(states, src_key_padding_mask=~counts)
        return self.norm(states), counts

    def _known_ids(self, caption: str) -> list[int]:
        ids = []
        for word in words_of(caption):
            if word in self.ids:
                ids.append(self.ids[word])
            elif word not in self._warned:  # once: training meets the same word in every epoch
                self._warned.add(word)
                self._warn_unknown(word)
        return ids

    def _warn_unknown(self, word: str) -> None:
        near = difflib.get_close_matches(word, self.vocabulary, n=1)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        LOGGER.warning("%r was in no training caption and is left out%s", word, suggestion)


class ClipText:
    """A frozen CLIP text encoder with its tokenizer: the last hidden states of all its tokens.

    The same batch of captions gives the same states to the bit; in another batch they may differ by roundings.

    Args:
        folder: a CLIPTextModel or CLIPModel; its tokenizer is there, or in `tokenizer` inside or beside it.
        device: where it computes.

    Raises:
        MissingError: no tokenizer was found.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPTextModel

        from bottega.models.loading import load_tokenizer, load_transformers

        self.tokenizer = load_tokenizer(_tokenizer_folder(folder))
        self.model: Any = load_transformers(CLIPTextModel, folder, torch.float32).to(device).requires_grad_(False)
        self.width = int(self.model.config.hidden_size)
        self.limit = int(self.model.config.max_position_embeddings)
        self._warned: set[str] = set()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [B, L, F], and bool [B, L], True where a token counts; a caption that is too long is cut, with a
        warning."""
        self._warn_cut(captions)
        encoded = self.tokenizer(list(captions), padding="max_length", max_length=self.limit, truncation=True)
        ids = torch.tensor(encoded["input_ids"], device=self.model.device)  # [B, L]
        mask = torch.tensor(encoded["attention_mask"], device=self.model.device)  # [B, L]
        states = self.model(ids, attention_mask=mask).last_hidden_state  # [B, L, F]
        return states, mask.bool()

    def _warn_cut(self, captions: Sequence[str]) -> None:
        # verbose=False: the tokenizer would warn of indexing errors, but these ids never reach the model
        uncut = self.tokenizer(list(captions), verbose=False)["input_ids"]
        for caption, ids in zip(captions, uncut, strict=True):
            if len(ids) <= self.limit or caption in self._warned:
                continue
            self._warned.add(caption)
            if len(self._warned) > _MAX_WARNINGS:
                continue
            last = "; no more such warnings follow" if len(self._warned) == _MAX_WARNINGS else ""
            LOGGER.warning(
                "CLIP reads %d tokens, %d in %r: the rest is cut off%s", self.limit, len(ids), caption[:80], last
            )


def _tokenizer_folder(folder: Path) -> Path:
    for place in (folder, folder / "tokenizer", folder.parent / "tokenizer"):
        if any(file.is_file() for file in place.glob("*token*")):
            return place
    raise MissingError(f"{folder}: no tokenizer is there, nor in tokenizer/ beside it; fetch the model whole")
