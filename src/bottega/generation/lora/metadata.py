"""What a LoRA file says of itself. Nothing of it is believed: it is text for people, cut to a bounded size.

Two things have a meaning for the result and are read as numbers: the scale that diffusers (in the file's header) and
peft (in `adapter_config.json` beside `adapter_model.safetensors`) keep apart from the tensors.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bottega.generation.lora.architecture import flat
from bottega.runtime.errors import RequestError

MAX_TEXT = 200  # characters kept of a value: a title, not a licence text
MAX_JSON = 8_000_000  # characters; tag tables of large data sets take one or two million
MAX_CONFIG = 1_000_000  # bytes of adapter_config.json; peft writes one or two thousand
TOP_TAGS = 20
_DIFFUSERS = "lora_adapter_metadata"
_FOLDER = re.compile(r"\d+_(.+)")  # kohya's data folders: repeats_concept
_NO_CONCEPT = {"img", "image", "images", "img_dir", "dataset", "train", "data"}
_PLAIN_PATTERN = re.compile(r"\^?[\w.\\-]+\$?")


@dataclass(frozen=True)
class LoRAMetadata:
    """What the file says of itself; empty where it says nothing."""

    name: str = ""
    """`ss_output_name`, or `modelspec.title`."""

    base_model: str = ""
    """`ss_base_model_version` or `modelspec.architecture`: what it was trained on, by its own account."""

    trained_with: str = ""
    """`ss_network_module`."""

    trigger_words: tuple[str, ...] = ()
    """`modelspec.trigger_phrase`; else what kohya's data folders are called."""

    top_tags: tuple[tuple[str, int], ...] = ()
    """The most frequent tags of the training captions with their counts."""

    other: tuple[tuple[str, str], ...] = ()
    """`modelspec.author`, `modelspec.license` and the like."""


_OTHER = (
    "modelspec.author", "modelspec.license", "modelspec.date", "modelspec.resolution", "modelspec.usage_hint",
    "modelspec.prediction_type", "ss_sd_model_name", "ss_network_dim", "ss_network_alpha", "ss_network_args",
    "ss_num_train_images", "ss_clip_skip", "ss_zero_terminal_snr", "ss_v_parameterization",
)  # fmt: skip


def read_metadata(header: Mapping[str, str]) -> LoRAMetadata:
    """The useful part of a header's `__metadata__`, as plain text."""
    tags = _tags(header.get("ss_tag_frequency", ""))
    phrase = tidy(header.get("modelspec.trigger_phrase", ""))
    words = _concepts(tags)
    if phrase:
        words = [word.strip() for word in phrase.split(",")]
    frequent: Counter[str] = Counter()
    for counts in tags.values():
        frequent.update(counts)
    return LoRAMetadata(
        name=tidy(header.get("ss_output_name", "") or header.get("modelspec.title", "")),
        base_model=tidy(header.get("ss_base_model_version", "") or header.get("modelspec.architecture", "")),
        trained_with=tidy(header.get("ss_network_module", "")),
        trigger_words=tuple(word for word in words if word)[:TOP_TAGS],
        top_tags=tuple(frequent.most_common(TOP_TAGS)),
        other=tuple((key, tidy(header[key])) for key in _OTHER if header.get(key)),
    )


def tidy(text: str) -> str:
    """One line of at most MAX_TEXT characters without control characters, which a terminal would obey."""
    letters = []
    for letter in text[: 4 * MAX_TEXT]:
        is_control_or_blank = unicodedata.category(letter)[0] in "CZ"
        letters.append(" " if is_control_or_blank else letter)
    line = " ".join("".join(letters).split())
    if len(line) > MAX_TEXT:
        return line[: MAX_TEXT - 1] + "…"
    return line


def _tags(text: str) -> dict[str, Counter[str]]:
    """Data folder -> tag -> count; what is not of that form is left out."""
    content = _json(text)
    found: dict[str, Counter[str]] = {}
    for folder, counts in content.items():
        if not isinstance(counts, dict):
            continue
        whole: Counter[str] = Counter()
        for tag, count in counts.items():
            if type(count) is int and 0 < count < 10**9:
                whole[tidy(tag)] += count
        found[tidy(folder)] = whole
    return found


def _concepts(folders: Mapping[str, Any]) -> list[str]:
    found = []
    for folder in folders:
        match = _FOLDER.fullmatch(folder)
        if match is not None and match[1].lower() not in _NO_CONCEPT:
            found.append(match[1].replace("_", " "))
    return found


def _json(text: str) -> dict[str, Any]:
    if not text or len(text) > MAX_JSON:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return content


class ScaleConfig(BaseModel):
    """The numbers of a peft configuration that set the scale; everything else in it is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    r: int | None = Field(None, ge=1, le=65_536)
    lora_alpha: float | None = Field(None, allow_inf_nan=False)
    alpha: float | None = Field(None, allow_inf_nan=False)  # as peft's LoHa and LoKr call it
    alpha_pattern: dict[str, float] = Field(default_factory=dict, max_length=10_000)
    use_rslora: bool = False

    def alpha_of(self, flat_name: str, rank: int) -> float | None:
        """The alpha of one module, such that its scale is alpha / rank; None where nothing is said.

        peft reads the patterns as regular expressions; a stranger's would be run here, so they are names.
        """
        alpha = self.alpha if self.lora_alpha is None else self.lora_alpha
        for pattern, value in self.alpha_pattern.items():
            name = flat(pattern.removeprefix("^").removesuffix("$").replace("\\", ""))
            if flat_name == name or flat_name.endswith(f"_{name}"):
                alpha = value
                break
        if alpha is not None and self.use_rslora:
            return alpha * math.sqrt(rank)  # rank-stabilised (arXiv 2312.03732): the scale is alpha / √rank
        return alpha


def _checked(content: Mapping[str, Any], where: str) -> ScaleConfig:
    try:
        config = ScaleConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"{where}: the scale of a LoRA is read from it; {tidy(place)} can't be used ({tidy(first['msg'])}); "
            "correct it there, or leave this LoRA out"
        ) from error
    odd = [pattern for pattern in config.alpha_pattern if not _PLAIN_PATTERN.fullmatch(pattern)]
    if odd:
        raise RequestError(
            f"{where}: a key of alpha_pattern must be a module's name, received {tidy(odd[0])!r}; write the names out"
        )
    return config


def scales_beside(path: Path) -> ScaleConfig | None:
    """The scale of a file of peft's, from `adapter_config.json` in its folder; None where there is none.

    Only beside a file that has the name peft gives it, for another LoRA's configuration may lie in a shared folder.

    Raises:
        RequestError: the configuration can't be read or used.
    """
    config = path.with_name("adapter_config.json")
    if path.name != "adapter_model.safetensors" or not config.is_file():
        return None
    if config.stat().st_size > MAX_CONFIG:
        raise RequestError(f"{config}: at most {MAX_CONFIG} bytes are read; fetch the adapter's folder again")
    content = _json(config.read_text("utf-8", errors="replace"))
    if not content:
        raise RequestError(f"{config}: must hold a JSON object; fetch the adapter's folder again")
    return _checked(content, str(config))


def scales_in_header(header: Mapping[str, str], where: str) -> dict[str, ScaleConfig]:
    """Component -> scale, as diffusers writes it into the header since 0.34; empty where it is not there.

    Raises:
        RequestError: a number in it can't be used.
    """
    parts: dict[str, dict[str, Any]] = {}
    for key, value in _json(header.get(_DIFFUSERS, "")).items():
        component, _, name = key.partition(".")
        parts.setdefault(component, {})[name] = value
    return {component: _checked(content, where) for component, content in parts.items()}
