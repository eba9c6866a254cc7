"""From a picture's file to an answer: the file, its pixels, its settings, its sources, and what a person sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bottega.data.pictures import UnusablePictureError, open_picture
from bottega.doctor.answer import Answer, Draft
from bottega.doctor.image.causes import explain_symptom, with_likely_cause
from bottega.doctor.image.file import find_edit, metadata_facts, require_file, unusable
from bottega.doctor.image.settings import family_profile, judge_settings
from bottega.doctor.image.sources import MIN_SIDE, compare_with_sources
from bottega.generation.checks import check_picture
from bottega.generation.metadata import read_metadata

if TYPE_CHECKING:
    from bottega.quality.measuring import ImageEncoder


@dataclass(frozen=True)
class ImageRequest:
    """What to examine.

    content, style: what the picture was drawn from, where it was stylised. symptom: what a person sees, such as
    `blurred`, of `bottega.generation.symptoms`. encoder: CLIP's, pictures uint8 [N, H, W, 3]
    to unit vectors [N, D]; None leaves the similarities out.
    """

    path: Path
    content: Path | None = None
    style: Path | None = None
    encoder: ImageEncoder | None = None
    symptom: str | None = None


def examine(request: ImageRequest) -> Answer:
    """Which fault a picture has, its likely cause and the cure. Loads no model, and needs no GPU.

    Raises:
        MissingError: there is no such file.
        RequestError: a folder was named, or there is no such symptom.
        PictureError: content or style can't be read.
    """
    path = request.path
    require_file(path)
    draft = Draft()

    # 1. What the file says; a torn file still says it.
    metadata = read_metadata(path)
    draft.facts |= metadata_facts(metadata)
    for note in metadata.notes:
        draft.leave_out("metadata", note)

    # 2. Whether it is a picture at all.
    try:
        picture = np.asarray(open_picture(path), np.uint8)
    except UnusablePictureError as error:
        draft.findings.append(unusable(path, error.reason))
        draft.leave_out("pixels, settings", "the picture can't be decoded")
        return draft.answer(str(path))
    height, width = picture.shape[:2]
    draft.facts["pixels"] = f"{width}x{height}"

    # 3. Its pixels.
    seen = [finding for finding in check_picture(picture) if finding.name != "not enough to tell"]
    if min(width, height) < MIN_SIDE:
        draft.leave_out("pixels", f"a picture is judged from {MIN_SIDE} pixels a side on")
    draft.leave_out("hands, faces, text, and whether the prompt was followed", "no measure here sees them")

    # 4. Its settings, which may explain what the pixels show.
    profile = family_profile(metadata)
    settings = judge_settings(metadata, profile, draft)
    for finding in seen:
        draft.findings.append(with_likely_cause(finding, metadata, profile, settings))
    draft.findings += settings
    draft.findings += find_edit(path, picture)

    # 5. Beside its content and style.
    compare_with_sources(picture, request.content, request.style, request.encoder, draft)

    # 6. What a person sees, which no measure here does.
    if request.symptom is not None:
        draft.findings += explain_symptom(request.symptom, metadata, profile, (width, height))
    return draft.answer(str(path))
