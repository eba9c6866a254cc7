"""Captions to tokens for cross-attention: learned words of a closed vocabulary, or a frozen CLIP text encoder.

Legend: B captions, L tokens, F their width. A caption is dropped by handing in the empty one, whose first token alone
is left: what guidance leads away from.
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
PAD, START = 0, 1
_SPECIAL = 2
_TOLD = 8
"""Captions that CLIP cuts off of which a line is said: of a data set it may cut thousands."""
_CHARACTERS = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")


def words_of(caption: str) -> list[str]:
    """The words of a caption in lower case; each Chinese or Japanese character is a word of its own."""
    return _WORD.findall(caption.lower())


def vocabulary_of(captions: Sequence[str]) -> list[str]:
    """All words of some captions, sorted."""
    return sorted({word for caption in captions for word in words_of(caption)})


def check_lengths(captions: Iterable[str], max_tokens: int) -> None:
    """RequestError where captions have too many words, with the longest of them."""
    counts = {caption: len(words_of(caption)) for caption in captions}
    long = {caption: count for caption, count in counts.items() if count >= max_tokens}
    if long:
        caption = max(long, key=lambda one: long[one])
        others = f" (and too many in {len(long) - 1} more)" if len(long) > 1 else ""
        raise RequestError(
            f"a caption has at most {max_tokens - 1} words (text.max_tokens - 1; each Chinese character is one), "
            f"received {long[caption]} in {caption[:80]!r}{others}; shorten it, or train with text.max_tokens = "
            f"{long[caption] + 1}"
        )


class Words(nn.Module):
    """A small transformer over the words of a caption, trained with the denoiser.

    Without its layers nothing would tell whose colour "orange" is: it stands at another place behind "light blue".
    vocabulary: all words it knows. A word that it does not know is left out, with one warning.
    """

    def __init__(self, config: TextConfig, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.width, self.limit = config.width, config.max_tokens
        self.vocabulary = list(vocabulary)
        self.numbers = {word: number + _SPECIAL for number, word in enumerate(self.vocabulary)}
        self._told: set[str] = set()
        self.embed = nn.Embedding(len(self.vocabulary) + _SPECIAL, config.width)
        self.place = nn.Parameter(0.1 * torch.randn(config.max_tokens, config.width))
        layer = nn.TransformerEncoderLayer(
            config.width, config.width // 8, 2 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.width)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """int64 [B, L], padded with 0 to the longest; RequestError for one of more than max_tokens - 1 words."""
        check_lengths(captions, self.limit)
        rows = [[START, *self._numbers(caption)] for caption in captions]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])

    def knows_any(self, caption: str) -> bool:
        """Whether anything of a caption is left when words that it does not know are left out."""
        return any(word in self.numbers for word in words_of(caption))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B, L] -> states [B, L, F], and bool [B, L], True where a token counts."""
        counts = tokens != PAD
        states = self.embed(tokens) + self.place[: tokens.shape[1]]
        if len(self.layers.layers):  # torch's encoder cannot do without any
            states = self.layers(states, src_key_padding_mask=~counts)
        return self.norm(states), counts

    def _numbers(self, caption: str) -> list[int]:
        found = words_of(caption)
        for word in found:
            if word not in self.numbers and word not in self._told:
                self._told.add(word)  # a training meets it in every epoch
                near = difflib.get_close_matches(word, self.vocabulary, n=1)
                LOGGER.warning(
                    "%r was in no training caption and is left out%s",
                    word,
                    f"; did you mean {near[0]!r}?" if near else "",
                )
        return [self.numbers[word] for word in found if word in self.numbers]


class ClipText:
    """A frozen CLIP text encoder with its tokenizer: the last hidden states of all its tokens.

    folder: a CLIPTextModel or CLIPModel; its tokenizer there, or in `tokenizer` beside it. Captions are encoded in the
    company in which they are asked for: the same batch gives the same states to the bit.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPTextModel

        from bottega.models.loading import load_tokenizer, load_transformers

        places = (folder, folder / "tokenizer", folder.parent / "tokenizer")
        place = next((p for p in places if any(q.is_file() for q in p.glob("*token*"))), None)
        if place is None:
            raise MissingError(f"{folder}: no tokenizer lies there, nor in tokenizer/ beside it; fetch the model whole")
        self.tokenizer = load_tokenizer(place)
        self.model: Any = load_transformers(CLIPTextModel, folder, torch.float32).to(device).requires_grad_(False)
        self.width = int(self.model.config.hidden_size)
        self.limit = int(self.model.config.max_position_embeddings)
        self._told: set[str] = set()

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """states [B, L, F], and bool [B, L], True where a token counts; a longer caption is cut, and that is said."""
        given = self.tokenizer(list(captions), padding="max_length", max_length=self.limit, truncation=True)
        whole = self.tokenizer(list(captions), verbose=False)["input_ids"]  # else it speaks of indexing errors
        for caption, ids in zip(captions, whole, strict=True):
            if len(ids) > self.limit and caption not in self._told:
                self._told.add(caption)
                self._tell(caption, len(ids))
        device = self.model.device
        ids, counts = (torch.tensor(given[name], device=device) for name in ("input_ids", "attention_mask"))
        states = self.model(ids, attention_mask=counts).last_hidden_state
        return states, counts.bool()

    def _tell(self, caption: str, tokens: int) -> None:
        if len(self._told) <= _TOLD:
            last = "; of further ones nothing is said" if len(self._told) == _TOLD else ""
            LOGGER.warning(
                "CLIP reads %d tokens, %d in %r: the rest is cut off%s", self.limit, tokens, caption[:80], last
            )
