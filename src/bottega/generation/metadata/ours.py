"""What bottega itself writes of a picture: one JSON record, in the PNG's chunk `bottega` and in a file beside it.

It holds what decides the picture and what was found of it, but neither times nor places: the same picture gives the
same bytes. Of a batch it holds this picture alone, with its own seed, as if it had been asked for by itself.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega import __version__
from bottega.generation.metadata import values
from bottega.generation.metadata.infotext import infotext
from bottega.generation.metadata.records import LoRAMention, PictureMetadata
from bottega.generation.records import (
    MAX_PROMPT,
    Correction,
    GeneratedPicture,
    LoRAUse,
    PictureSettings,
    Result,
    StyleUse,
)
from bottega.runtime.errors import RequestError
from bottega.runtime.findings import Finding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CHUNK = "bottega"
PARAMETERS = "parameters"
FORMAT = 1
"""Raised when a key changes its meaning; new keys need none, for readers pass over those they do not know."""


@dataclass(frozen=True)
class PictureRecord:
    """The JSON record of one picture."""

    format: int
    version: str
    settings: PictureSettings
    sha256: str
    """Of the pixels."""
    corrections: tuple[Correction, ...] = ()
    loras: tuple[LoRAUse, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Of the request first, then of the picture."""
    model: str = ""
    model_sha256: str = ""
    image_sha256: str = ""
    style: StyleUse | None = None
    """Of a picture by `bottega stylize`."""


def picture_record(result: Result, picture: GeneratedPicture) -> PictureRecord:
    """The record of one picture of a result."""
    return PictureRecord(
        format=FORMAT,
        version=__version__,
        settings=dataclasses.replace(result.settings, seed=picture.seed, count=1),
        sha256=picture.sha256,
        corrections=result.corrections,
        loras=result.loras,
        findings=(*result.findings, *picture.findings),
        model=result.model,
        model_sha256=result.model_sha256,
        image_sha256=result.image_sha256,
        style=result.style,
    )


def write_picture(
    path: Path, pixels: npt.NDArray[np.uint8], result: Result, picture: GeneratedPicture, *, beside: bool = True
) -> str:
    """Write a picture that says how it was made, and the same as JSON beside it, each whole or not at all.

    The JSON comes first: where a picture is, its JSON is too. A PNG holds the record; a JPEG or WebP has no place for
    it and holds the `parameters` text alone.

    Args:
        path: the picture, in the format that it ends in; the JSON has the same name with the ending `.json`.
        pixels: uint8 [H, W, 3], RGB.
        result: the answer that the picture belongs to.
        picture: which of its pictures.
        beside: write the JSON too; without it a PNG alone holds the record.

    Returns:
        SHA-256 of the picture's file.

    Raises:
        ValueError: the pixels are not those whose hash the picture has, or have another dtype or shape.
        StorageError: a file can't be written.
    """
    from bottega.runtime.files import sha256_bytes, write_image, write_json

    measured = sha256_bytes(pixels.tobytes())
    if picture.sha256 != measured:
        raise ValueError(f"the pixels are those of the record, {picture.sha256}; received others, {measured}")
    record = dataclasses.asdict(picture_record(result, picture))
    # ASCII alone, so that the chunk is a tEXt, which every reader knows, whatever the prompt holds.
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    if beside:
        write_json(path.with_suffix(".json"), record)
    parameters = infotext(result, picture)
    return write_image(path, pixels, {PARAMETERS: parameters, CHUNK: text}, comment=parameters)


def read_record(text: str) -> PictureRecord:
    """The record of a chunk.

    Raises:
        RequestError: it is damaged, or of a later format.
    """
    from bottega.runtime.records import to_record

    content = values.as_object(text)
    if content is None:
        raise RequestError(f"the chunk {CHUNK!r} holds one JSON object, received something else; use another picture")
    record = to_record(PictureRecord, content, f"the chunk {CHUNK!r}")
    if record.format > FORMAT:
        raise RequestError(
            f"the chunk {CHUNK!r} has format {record.format}, and this version reads up to {FORMAT}; update bottega"
        )
    return record


def as_metadata(record: PictureRecord) -> PictureMetadata:
    """The record in the form that all tools share."""
    used = record.settings
    loras = tuple(LoRAMention(use.name, use.weights.get("unet"), use.sha256) for use in record.loras)
    return PictureMetadata(
        tool="bottega",
        version=record.version,
        prompt=used.prompt,
        negative_prompt=used.negative_prompt,
        sampler=used.sampler,
        our_sampler=used.sampler,
        steps=used.steps,
        guidance_scale=used.guidance_scale,
        guidance_rescale=used.guidance_rescale,
        seed=used.seed,
        width=used.width,
        height=used.height,
        model=record.model,
        model_hash=record.model_sha256,
        loras=loras,
        clip_skip=used.clip_skip,
        strength=used.strength,
        prediction_type=used.prediction_type,
        other={"Profile": used.profile, "Guardrails": "; ".join(map(str, record.corrections)), **_style(record.style)},
    )


def _style(use: StyleUse | None) -> dict[str, str]:
    if use is None:
        return {}
    return {
        "Style adapter": use.adapter,
        "Style adapter hash": use.adapter_sha256,
        "Style picture hash": use.style_sha256,
        "Style scale": f"{use.style_scale:g}",
        "Style guidance": f"{use.style_guidance:g}",
    }


def read_facts(text: str) -> PictureMetadata | None:
    """What `bottega generate` writes of a model from scratch into the same chunk; None where it is something else."""
    said = values.as_object(text)
    if said is None or "checkpoint" not in said:
        return None
    return PictureMetadata(
        tool="bottega",
        prompt=values.as_text(said.get("prompt"), MAX_PROMPT),
        sampler=values.as_name(said.get("scheduler")),
        steps=values.steps_of(said.get("steps")),
        guidance_scale=values.guidance_of(said.get("guidance_scale")),
        seed=values.seed_of(said.get("seed")),
        model=f"{values.as_name(said.get('model'))} {values.as_name(said.get('checkpoint'))}",
    )
