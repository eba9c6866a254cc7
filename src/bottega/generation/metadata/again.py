"""From a picture back to the request that makes it again: `bottega generate --from picture.png`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bottega.generation.metadata.infotext import without_tags
from bottega.generation.metadata.ours import CHUNK, PictureRecord, read_record
from bottega.generation.metadata.reading import read_metadata
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.metadata.text import read_texts
from bottega.generation.records import GenerationRequest, LoRASpec
from bottega.generation.samplers import SAMPLERS
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_file
from bottega.runtime.records import explain

_SPACINGS = ("simple", "sgm_uniform", "ddim_uniform", "exponential", "beta", "polyexponential", "align your steps")
"""Schedules that space the noise levels in another way than our sampler of the same name."""


@dataclass(frozen=True)
class RequestAgain:
    """A request that a picture's file gave.

    left_out: what could not be taken over, and why; empty where the request makes the same picture again with the model
    of `model_sha256`.
    """

    request: GenerationRequest
    metadata: PictureMetadata
    left_out: tuple[str, ...]
    model: str
    model_sha256: str
    """Of the model's weights; empty where the file has only a short hash, or none."""
    pixels_sha256: str
    """Of the picture's pixels when it was written; empty where the file does not say."""


def request_from(path: Path, lora_folders: Sequence[Path] = ()) -> RequestAgain:
    """The request that made a picture: exactly from our own record, as far as it says from another tool's.

    From our own record the guardrails are off: the values are those that they allowed, or left alone as asked.

    Args:
        path: the picture.
        lora_folders: where to look for the LoRAs' files, by name and hash.

    Raises:
        MissingError: there is no such file.
        RequestError: it says nothing of how it was made, or has values that no request may have.
    """
    metadata = read_metadata(path)
    record = _own_record(path)
    if record is not None:
        return _from_record(path, record, metadata, lora_folders)
    if metadata.is_empty:
        raise RequestError(f"{path} says nothing of how it was made (its metadata was removed, or never there); "
                           "give --prompt and the other options instead of --from")  # fmt: skip
    return _from_metadata(path, metadata, lora_folders)


def _own_record(path: Path) -> PictureRecord | None:
    text = read_texts(path).by_keyword.get(CHUNK)
    if text is None:
        return None
    try:
        return read_record(text)
    except RequestError:
        return None  # `read_metadata` says so in its notes, and reads the other chunk


def _from_record(path: Path, record: PictureRecord, metadata: PictureMetadata, folders: Sequence[Path]) -> RequestAgain:
    if record.style is not None:
        raise RequestError(
            f"{path} was drawn in a style, with the adapter {record.style.adapter} "
            f"(SHA-256 {record.style.adapter_sha256[:10]}…); draw it again with `bottega stylize`"
        )
    used = record.settings
    left_out = []
    loras = []
    for use in record.loras:
        file = _file_with_hash(use.name, use.sha256, folders)
        if file is None:
            left_out.append(f"LoRA {use.name}: no file with SHA-256 {use.sha256[:10]}…; give its folder, or --lora")
            continue
        weight = use.weights.get("unet", 1.0)
        loras.append(_lora(path, {**use.weights, "path": file, "weight": weight}))
    if used.strength is not None:
        left_out.append(f"the picture to start from (SHA-256 {record.image_sha256[:10] or 'unknown'}); give --image")
    request = _request(
        path,
        prompt=used.prompt,
        negative_prompt=used.negative_prompt,
        width=used.width,
        height=used.height,
        steps=used.steps,
        guidance_scale=used.guidance_scale,
        guidance_rescale=used.guidance_rescale,
        sampler=used.sampler,
        seed=used.seed,
        clip_skip=used.clip_skip,
        strength=used.strength,
        loras=tuple(loras),
        prediction_type=used.prediction_type,
        guardrails="off",
    )
    return RequestAgain(
        request, metadata, tuple(left_out), record.model, record.model_sha256, pixels_sha256=record.sha256
    )


def _from_metadata(path: Path, metadata: PictureMetadata, folders: Sequence[Path]) -> RequestAgain:
    left_out = [*metadata.notes]
    given: dict[str, Any] = {
        "prompt": without_tags(metadata.prompt or ""),
        "negative_prompt": without_tags(metadata.negative_prompt or ""),
        "steps": metadata.steps,
        "guidance_scale": metadata.guidance_scale,
        "guidance_rescale": metadata.guidance_rescale,
        "sampler": _sampler(metadata, left_out),
        "clip_skip": metadata.clip_skip,
        "strength": metadata.strength,
        "seed": _seed(metadata, left_out),
    }
    given |= _size(metadata, left_out)
    if metadata.prediction_type is not None:
        given["prediction_type"] = metadata.prediction_type
    given["loras"] = _loras(metadata.loras, folders, left_out)
    if metadata.strength is not None:
        left_out.append("the picture to start from; give --image")
    if metadata.passes > 1:
        left_out.append(
            f"{metadata.passes - 1} further passes of the sampler (such as hires fix): only the first is made"
        )
    left_out.append(
        f"the noise of {metadata.tool}, which draws other numbers for the same seed: the picture will be alike at most"
    )
    return RequestAgain(_request(path, **given), metadata, tuple(left_out), metadata.model, "", "")


def _lora(path: Path, given: Mapping[str, object]) -> LoRASpec:
    try:
        return LoRASpec.model_validate(given)
    except ValidationError as error:
        raise RequestError(f"{path}: no LoRA may have what it says: {explain(error)}; give --lora") from error


def _request(path: Path, **given: Any) -> GenerationRequest:
    try:
        return GenerationRequest.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise RequestError(f"{path}: no request may have what it says: {explain(error)}; give the options") from error


def _seed(metadata: PictureMetadata, left_out: list[str]) -> int | None:
    if metadata.seed is not None and metadata.seed >= 2**63:
        left_out.append(f"seed {metadata.seed}: it lies above 2^63, so another is drawn")
        return None
    return metadata.seed


def _size(metadata: PictureMetadata, left_out: list[str]) -> dict[str, int]:
    width, height = metadata.width, metadata.height
    if width is None or height is None:
        return {}
    if not (8 <= width <= 16_384 and 8 <= height <= 16_384):
        left_out.append(f"size {width}x{height}: sides are 8 to 16384 pixels")
        return {}
    return {"width": width, "height": height}


def _sampler(metadata: PictureMetadata, left_out: list[str]) -> str | None:
    """The sampler to draw with; None leaves it to the model's profile."""
    ours = metadata.our_sampler
    if ours is not None and ours in SAMPLERS:
        if metadata.schedule.lower() in _SPACINGS:
            left_out.append(f"schedule {metadata.schedule!r}: {ours} spaces its steps in its own way")
        return ours
    if not metadata.sampler:
        return None
    spelled = f"{metadata.sampler} {metadata.schedule}".strip()
    plain = (ours or "").removesuffix("_karras")
    if plain in SAMPLERS:
        left_out.append(f"sampler {spelled!r}: {plain} is used, which spaces its steps in its own way")
        return plain
    left_out.append(f"sampler {spelled!r}: there is none of this kind here, so the model's own is used")
    return None


def _loras(mentions: Sequence[LoRAMention], folders: Sequence[Path], left_out: list[str]) -> tuple[LoRASpec, ...]:
    loras = []
    for mention in mentions:
        file = _file_with_hash(mention.name, mention.hash, folders) if mention.hash else None
        if file is None:
            why = (
                "no file with its name and hash" if mention.hash else "the file names no hash, so none is taken for it"
            )
            left_out.append(f"LoRA {mention.name}: {why}; give --lora")
        elif mention.weight is None or abs(mention.weight) > 4:
            left_out.append(f"LoRA {mention.name}: its weight is unknown or beyond 4; give --lora {file}:WEIGHT")
        else:
            loras.append(LoRASpec(path=file, weight=mention.weight))
    return tuple(loras[:16])


def _file_with_hash(name: str, digest: str, folders: Sequence[Path]) -> Path | None:
    """The LoRA of this name whose hash begins so: of the file, or of its tensors alone, as A1111 has it."""
    # The name comes from a file that anyone may have written: it chooses among what is there, and leads nowhere.
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")):
            if file.stem == name and len(digest) >= 8:
                hashes = (sha256_file(file), _tensors_sha256(file))
                if any(own.startswith(digest.lower()) for own in hashes):
                    return file
    return None


def _tensors_sha256(file: Path) -> str:
    """SHA-256 of what follows a safetensors file's header, which training scripts and sites also hash alone."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        stream.seek(min(8 + length, file.stat().st_size))  # a length that the file itself names is not believed
        return hashlib.file_digest(stream, "sha256").hexdigest()
