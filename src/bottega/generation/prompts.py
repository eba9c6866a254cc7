"""Prompts to what conditions SDXL: weights such as `(word:1.2)`, and texts of more than 75 tokens.

A short prompt without weights goes through diffusers' own `encode_prompt`, so that it is encoded as everywhere. Others
are encoded by compel, in chunks of 75 tokens, each fragment by its weight. Nothing is cut in silence.

Dimensions: L tokens (a multiple of 77), D width of both encoders' states together, P width of the pooled state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from bottega.runtime.errors import RequestError

STEP = 1.1  # what one pair of round brackets multiplies by, and of square ones divides by, as in AUTOMATIC1111
MAX_WEIGHT = 10.0
MAX_CHUNKS = 16  # of 75 tokens; the U-Net's cross-attention grows with each
_WEIGHTED = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)")
_TOKEN = re.compile(r"\\[()\[\]\\]|[()\[\]]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|.", re.DOTALL)
_LORA_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Fragment:
    """A part of a prompt and how much it counts."""

    text: str
    weight: float


@dataclass(frozen=True, eq=False)
class TextConditions:
    """What conditions the U-Net: states [1, L, D] and pooled [1, P], of the prompt and, where guided, the negative."""

    states: torch.Tensor
    pooled: torch.Tensor
    negative_states: torch.Tensor | None
    negative_pooled: torch.Tensor | None

    def finite(self) -> bool:
        """Whether every value is finite."""
        tensors = (self.states, self.pooled, self.negative_states, self.negative_pooled)
        return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)

    def repeated(self, size: int) -> dict[str, torch.Tensor]:
        """As arguments of SDXL's pipelines, for `size` pictures."""
        rows = {
            "prompt_embeds": self.states,
            "pooled_prompt_embeds": self.pooled,
            "negative_prompt_embeds": self.negative_states,
            "negative_pooled_prompt_embeds": self.negative_pooled,
        }
        return {name: _repeat(values, size) for name, values in rows.items() if values is not None}


@dataclass(frozen=True, eq=False)
class PixArtConditions:
    """What conditions PixArt: T5's states [1, L, D] and which tokens count [1, L], of prompt and negative prompt."""

    states: torch.Tensor
    mask: torch.Tensor
    negative_states: torch.Tensor | None
    negative_mask: torch.Tensor | None

    def finite(self) -> bool:
        """Whether every value is finite."""
        tensors = (self.states, self.negative_states)
        return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)

    def repeated(self, size: int) -> dict[str, torch.Tensor]:
        """As arguments of PixArt's pipeline, for `size` pictures."""
        rows = {
            "prompt_embeds": self.states,
            "prompt_attention_mask": self.mask,
            "negative_prompt_embeds": self.negative_states,
            "negative_prompt_attention_mask": self.negative_mask,
        }
        return {name: _repeat(values, size) for name, values in rows.items() if values is not None}


def _repeat(values: torch.Tensor, size: int) -> torch.Tensor:
    return values.repeat(size, *[1] * (values.ndim - 1))


def parse(prompt: str) -> list[Fragment]:
    """Split a prompt into fragments by AUTOMATIC1111's rules: `(a)` counts 1.1, `[a]` 1/1.1, `(a:1.3)` 1.3; brackets
    nest, and a backslash before a bracket makes it a plain one.

    Raises:
        RequestError: a LoRA's tag in the prompt, or a weight out of range.
    """
    tag = _LORA_TAG.search(prompt)
    if tag is not None:
        raise RequestError(
            f"LoRAs are named beside the prompt, received {tag.group()} in it, which would be read as plain words; use "
            "--lora FILE:WEIGHT"
        )
    reader = _PromptReader()
    for token in _TOKEN.findall(prompt):
        reader.take(token)
    reader.close_brackets()
    # Brackets multiply: enough of them reach infinity, and NaN in the embeddings.
    for fragment in reader.fragments:
        if not fragment.weight <= MAX_WEIGHT:
            raise _out_of_range(fragment.weight)
    return _merged(reader.fragments)


class _PromptReader:
    """The fragments of a prompt with their weights so far, and the brackets that are open."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        # For each open bracket the number of the first fragment in it.
        self.round_brackets: list[int] = []
        self.square_brackets: list[int] = []

    def take(self, token: str) -> None:
        """Read one token: a bracket, a weight with the bracket that it closes, or text."""
        if token == "(":
            self.round_brackets.append(len(self.fragments))
        elif token == "[":
            self.square_brackets.append(len(self.fragments))
        elif token == ")" and self.round_brackets:
            self._multiply(self.round_brackets.pop(), STEP)
        elif token == "]" and self.square_brackets:
            self._multiply(self.square_brackets.pop(), 1 / STEP)
        elif self.round_brackets and _WEIGHTED.fullmatch(token):
            self._multiply(self.round_brackets.pop(), _weight_in(token))
        else:
            self.fragments.append(Fragment(_unescaped(token), 1.0))

    def close_brackets(self) -> None:
        """A bracket that is never closed weighs all that follows, as in AUTOMATIC1111."""
        for begin in self.round_brackets:
            self._multiply(begin, STEP)
        for begin in self.square_brackets:
            self._multiply(begin, 1 / STEP)

    def _multiply(self, begin: int, factor: float) -> None:
        for number in range(begin, len(self.fragments)):
            fragment = self.fragments[number]
            self.fragments[number] = Fragment(fragment.text, fragment.weight * factor)


def _unescaped(token: str) -> str:
    """A text; a bracket or backslash with a backslash before it stands for itself."""
    if len(token) == 2 and token[0] == "\\":
        return token[1:]
    return token


def _weight_in(token: str) -> float:
    match = _WEIGHTED.fullmatch(token)
    assert match is not None  # the caller has matched it
    weight = float(match.group(1))
    if not 0 <= weight <= MAX_WEIGHT:
        raise _out_of_range(weight)
    return weight


def _out_of_range(weight: float) -> RequestError:
    return RequestError(f"a weight in a prompt is 0 to {MAX_WEIGHT:g}, received {weight:g}; use the negative prompt")


def _merged(fragments: list[Fragment]) -> list[Fragment]:
    """Neighbours of one weight together: compel joins fragments with a blank, which would split a word."""
    merged: list[Fragment] = []
    for fragment in fragments:
        if merged and abs(merged[-1].weight - fragment.weight) < 1e-6:
            merged[-1] = Fragment(merged[-1].text + fragment.text, fragment.weight)
        else:
            merged.append(fragment)
    kept = []
    for fragment in merged:
        text = fragment.text.strip()
        if text:
            kept.append(Fragment(text, fragment.weight))
    return kept or [Fragment("", 1.0)]


def plain_text(prompt: str) -> str:
    """The prompt without its weights."""
    return " ".join(fragment.text for fragment in parse(prompt))


@torch.no_grad()
def encode_sdxl(
    pipeline: Any, prompt: str, negative: str, clip_skip: int, *, guided: bool, device: torch.device
) -> TextConditions:
    """Encode a prompt and, where guidance is at work, a negative one.

    Args:
        pipeline: StableDiffusionXLPipeline or its img2img; its text encoders are used as they are, LoRAs included.
        prompt: with weights or without.
        negative: "" is no negative prompt at all: SDXL takes zeros for it.
        clip_skip: as AUTOMATIC1111 counts.
        guided: whether the negative half is needed.
        device: where the text encoders compute.

    Raises:
        RequestError: a weighted or long prompt with another `clip_skip` than 2, or a prompt of too many tokens.
    """
    fragments, negative_fragments = parse(prompt), parse(negative)
    if _is_simple(pipeline, fragments) and _is_simple(pipeline, negative_fragments):
        states, negative_states, pooled, negative_pooled = pipeline.encode_prompt(
            fragments[0].text,
            device=device,
            do_classifier_free_guidance=guided,
            negative_prompt=negative_fragments[0].text or None,
            clip_skip=None if clip_skip == 2 else clip_skip - 2,  # diffusers takes the last but one by itself
        )
        return TextConditions(states, pooled, negative_states, negative_pooled)
    if clip_skip != 2:
        raise RequestError(
            f"weights and prompts of more than 75 tokens need clip_skip 2, received {clip_skip}; leave one of them out"
        )
    providers = _providers(pipeline, device)
    states, pooled = _encode(providers, fragments)
    if not guided:
        return TextConditions(states, pooled, None, None)
    if negative.strip() == "" and pipeline.config.force_zeros_for_empty_prompt:
        return TextConditions(states, pooled, torch.zeros_like(states), torch.zeros_like(pooled))
    negative_states, negative_pooled = _encode(providers, negative_fragments)
    length = max(states.shape[1], negative_states.shape[1])
    return TextConditions(
        _padded(providers, states, length), pooled, _padded(providers, negative_states, length), negative_pooled
    )


@torch.no_grad()
def encode_pixart(pipeline: Any, prompt: str, negative: str, *, guided: bool, device: torch.device) -> PixArtConditions:
    """Encode a prompt and, where guidance is at work, a negative one, with T5.

    Args:
        pipeline: PixArtAlphaPipeline.
        prompt: without weights: T5 has no place for them.
        negative: "" is the empty prompt.
        guided: whether the negative half is needed.
        device: where T5 computes.

    Raises:
        RequestError: a weighted prompt, or one of more tokens than PixArt takes.
    """
    limit = _pixart_tokens(pipeline)
    texts = []
    for text in (prompt, negative):
        fragments = parse(text)
        if len(fragments) > 1 or fragments[0].weight != 1.0:
            raise RequestError(
                f"PixArt takes no weights in a prompt, received {text[:60]!r}; write it without brackets"
            )
        tokens = len(pipeline.tokenizer(fragments[0].text, truncation=False, verbose=False).input_ids)
        if tokens > limit:
            raise RequestError(f"PixArt takes prompts of {limit} tokens, received {tokens}; shorten it")
        texts.append(fragments[0].text)
    states, mask, negative_states, negative_mask = pipeline.encode_prompt(
        texts[0],
        do_classifier_free_guidance=guided,
        negative_prompt=texts[1],
        device=device,
        clean_caption=False,  # it needs two more packages, and changes a text in silence
        max_sequence_length=limit,
    )
    return PixArtConditions(states, mask, negative_states, negative_mask)


def _pixart_tokens(pipeline: Any) -> int:
    """Tokens that PixArt-α was trained with, or fewer where its tokenizer takes fewer."""
    return min(120, int(pipeline.tokenizer.model_max_length))


def _is_simple(pipeline: Any, fragments: list[Fragment]) -> bool:
    if len(fragments) > 1 or fragments[0].weight != 1.0:
        return False
    return all(_num_tokens(tokenizer, fragments[0].text) <= _room(tokenizer) for tokenizer in _tokenizers(pipeline))


def _tokenizers(pipeline: Any) -> list[Any]:
    return [pipeline.tokenizer, pipeline.tokenizer_2]


def _num_tokens(tokenizer: Any, text: str) -> int:
    # Without special tokens; the length warning of a long text is what this function is for.
    return len(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _room(tokenizer: Any) -> int:
    return int(tokenizer.model_max_length) - 2  # begin and end


def _providers(pipeline: Any, device: torch.device) -> list[Any]:
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

    providers = []
    for tokenizer, encoder in zip(_tokenizers(pipeline), (pipeline.text_encoder, pipeline.text_encoder_2), strict=True):
        providers.append(
            EmbeddingsProvider(
                tokenizer,
                encoder,
                truncate=False,
                returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
                device=str(device),
            )
        )
    return providers


def _encode(providers: list[Any], fragments: list[Fragment]) -> tuple[torch.Tensor, torch.Tensor]:
    """States [1, L, D] of both encoders side by side, and the second one's pooled state [1, P] of the first chunk."""
    texts = [fragment.text for fragment in fragments]
    weights = [fragment.weight for fragment in fragments]
    tokens = sum(_num_tokens(providers[0].tokenizer, text) for text in texts)
    limit = MAX_CHUNKS * _room(providers[0].tokenizer)
    if tokens > limit:
        raise RequestError(f"a prompt has at most {limit} tokens, received {tokens}; shorten it")
    states = []
    for provider in providers:
        states.append(
            provider.get_embeddings_for_weighted_prompt_fragments([texts], [weights], device=str(provider.device))
        )
    length = max(part.shape[1] for part in states)
    states = [_pad_one(provider, part, length) for provider, part in zip(providers, states, strict=True)]
    pooled = providers[1].get_pooled_embeddings([" ".join(texts)], device=str(providers[1].device))
    return torch.cat(states, dim=-1), pooled


def _padded(providers: list[Any], states: torch.Tensor, length: int) -> torch.Tensor:
    """States with chunks of the empty prompt behind them, up to `length` tokens."""
    if states.shape[1] == length:
        return states
    empty, _ = _encode(providers, [Fragment("", 1.0)])
    chunks = (length - states.shape[1]) // empty.shape[1]
    return torch.cat([states, *[empty] * chunks], dim=1)


def _pad_one(provider: Any, states: torch.Tensor, length: int) -> torch.Tensor:
    if states.shape[1] == length:
        return states
    empty = provider.get_embeddings_for_weighted_prompt_fragments([[""]], [[1.0]], device=str(provider.device))
    chunks = (length - states.shape[1]) // empty.shape[1]
    return torch.cat([states, *[empty] * chunks], dim=1)
