"""A stylised picture beside its sources: structure kept, style taken over, nothing of the style picture copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bottega.doctor.answer import Draft
from bottega.evaluation.colour import palette, palette_distance
from bottega.quality.config import Thresholds
from bottega.quality.eye.look import shipped_eye
from bottega.quality.grading import Check, Grader, likely_cause
from bottega.quality.measuring import ImageEncoder, Reference, Scores, compare, reference
from bottega.quality.scorer import fitted
from bottega.runtime.findings import Severity
from bottega.visual.pictures import Picture

MIN_SIDE = 16
"""Pixels a side from which a picture is judged."""

_UNJUDGED = {
    ("content",): "whether the structure was kept",
    ("style",): "whether the style was taken over",
    ("content", "style"): "structure kept, style taken over",
}
"""By the sources that were not given."""

_STRUCTURE_CHECKS = ("structure", "edge_64", "edge_128", "unchanged")
_MORE_STYLE = "raise style scale, strength or the style's guidance"
_LESS_STYLE = "lower the style scale; remove the scene from the style (purification)"
_CURES = {
    "structure": "lower the strength or the style scale",
    "edge_64": "lower the strength or the style scale",
    "edge_128": "lower the strength or the style scale",
    "unchanged": "raise the strength",
    "clipped": "lower the guidance",
    "vivid": "lower the guidance",
    "washed": "raise the guidance or the steps",
    "blur": "more steps, or a higher strength",
    "frequency": "a style scale of 0.35 at most, and DDIM",
    "mesh": "a style scale of 0.35 at most, and DDIM",
    "noise": "a style scale of 0.35 at most, and DDIM",
    "ghosting": "a style scale of 0.35 at most, and DDIM",
    "blocking": "contents and styles that are less compressed, or a higher strength",
}
"""By quality's check; docs/troubleshooting.md says more."""

_CURES_BY_CAUSE = {
    "light": "lower the guidance; decode in float32",
    "colour": "look whether red and blue were swapped, or the picture inverted, where it was saved",
    "noise": "a style scale of 0.35 at most, and DDIM; look whether the latents have the autoencoder's scaling factor",
    "pattern": "decode without tiles; contents and styles that are less compressed",
    "blur": "more steps, or a higher strength",
    "geometry": "lower the strength; look whether content and latents have one size and one crop",
    "scene": "look whether the file belongs to this content; lower the strength or the style scale",
    "style": "lower the style scale; remove the scene from the style (purification)",
    "missing": "look whether the picture was saved whole, and cut borders off the content and the style",
    "compression": "save without loss; decode in float32",
}
"""By the cause that the learned eye names, where it is sure of one."""

_NEAR_PALETTES = 3.0  # ΔE: content and style that share their colours already can come no nearer
_COPIED = 0.6  # edge similarity with the style picture; two unrelated pictures have 0.3 at most


def compare_with_sources(
    picture: Picture, content: Path | None, style: Path | None, encoder: ImageEncoder | None, draft: Draft
) -> None:
    """Add what a picture kept of its content and took over from its style.

    Args:
        picture: uint8 [H, W, 3].
        content: None: not given.
        style: None: not given.
        encoder: CLIP's; None leaves its similarities out.
        draft: where findings, facts and what could not be judged are added.

    Raises:
        PictureError: content or style can't be read.
    """
    _note_what_is_missing(content, style, draft)
    has_source = content is not None or style is not None
    if not has_source or min(picture.shape[:2]) < MIN_SIDE:
        return
    size = (picture.shape[1], picture.shape[0])
    drawn = _reference(picture, encoder)
    before = _source(content, size, encoder)
    model = _source(style, size, encoder)
    if encoder is None:
        draft.leave_out("likeness by CLIP", "--clip was not given")
    if before is not None:
        _against_content(drawn, before, model, draft)
    if model is not None:
        _against_palette(drawn, before, model, draft)
        _against_edges(drawn, before, model, draft)
    if before is not None and model is not None:
        _by_embedding(drawn, before, model, draft)


def _note_what_is_missing(content: Path | None, style: Path | None, draft: Draft) -> None:
    missing = []
    if content is None:
        missing.append("content")
    if style is None:
        missing.append("style")
    if missing:
        why = " and ".join(f"--{name} was not given" for name in missing)
        draft.leave_out(_UNJUDGED[tuple(missing)], why)


def _source(path: Path | None, size: tuple[int, int], encoder: ImageEncoder | None) -> Reference | None:
    """A source at the picture's size, (width, height); None where it was not given."""
    if path is None:
        return None
    return _reference(fitted(str(path), size), encoder)


def _reference(picture: Picture, encoder: ImageEncoder | None) -> Reference:
    """What the scores need of a picture, with CLIP's vector where there is an encoder."""
    vector = None
    if encoder is not None:
        vector = np.asarray(encoder(picture[None]), np.float32)[0]
    return reference(picture, vector)


def _against_content(drawn: Reference, content: Reference, style: Reference | None, draft: Draft) -> None:
    """Quality's own judgement by its limits, with the learned eye; without a style the checks of structure alone."""
    grader = Grader(Thresholds())
    if style is None:
        scores = compare(drawn, content, content)
        asked = [check for check in grader.failed(scores) if check.name in _STRUCTURE_CHECKS]
        decisive = asked
    else:
        scores = compare(drawn, content, style, eye=shipped_eye())
        # CLIP's limits belong to one CLIP and are calibrated for others.
        asked = [check for check in grader.failed(scores) if check.name != "content"]
        decisive = grader.decisive(scores)
    for name in ("structure", "edge_64", "change", "damage"):
        if name in scores:
            draft.facts[f"{name} against the content"] = scores[name]
    _add_checks(asked, decisive, grader, scores, draft)


def _add_checks(asked: list[Check], decisive: list[Check], grader: Grader, scores: Scores, draft: Draft) -> None:
    """A finding for each check by name; those that make no C are warnings."""
    named: set[str] = set()
    for check in asked:
        if check.name in named:  # two bounds may share a name
            continue
        named.add(check.name)
        evidence = grader.evidence(check, scores)
        if check in decisive:
            draft.add(check.name, Severity.ERROR, evidence, _cure(check, scores))
        else:
            draft.add(check.name, Severity.WARNING, f"{evidence}; the whole looks sound", _cure(check, scores))


def _cure(check: Check, scores: Scores) -> str:
    if check.name != "damage":
        return _CURES.get(check.name, "")
    return _CURES_BY_CAUSE.get(
        likely_cause(scores), "draw it again from another seed; if it comes back, compare settings"
    )


def _against_palette(drawn: Reference, content: Reference | None, style: Reference, draft: Draft) -> None:
    """Whether the colours came nearer to the style's than the content's were."""
    colours = palette(style.picture)
    distance = palette_distance(palette(drawn.picture), colours)
    draft.facts["palette from the style, ΔE"] = distance
    if content is None:
        return
    before = palette_distance(palette(content.picture), colours)
    draft.facts["palette of the content from the style, ΔE"] = before
    if distance >= before > _NEAR_PALETTES:
        evidence = f"its palette is {distance:.1f} ΔE from the style's, the content's was {before:.1f}"
        draft.add("style ignored", Severity.WARNING, evidence, _MORE_STYLE)


def _against_edges(drawn: Reference, content: Reference | None, style: Reference, draft: Draft) -> None:
    """Whether the style picture itself was copied, and not its style alone."""
    copied = compare(drawn, style, style).get("edge_64", 0.0)
    kept = 0.0
    if content is not None:
        kept = compare(drawn, content, style).get("edge_64", 0.0)
    if copied > max(_COPIED, kept):
        evidence = f"its edges are where the style picture has them, similarity {copied:.2f}"
        draft.add("style picture copied", Severity.ERROR, evidence, _LESS_STYLE)


def _by_embedding(drawn: Reference, content: Reference, style: Reference, draft: Draft) -> None:
    """CLIP's similarities, where an encoder was given."""
    if drawn.embedding is None:
        return
    scores = compare(drawn, content, style)
    for name in ("content_sim", "style_sim", "style_gain"):
        draft.facts[name] = scores[name]
    if scores["style_gain"] < 0:
        evidence = f"by CLIP no nearer to the style than the content was, gain {scores['style_gain']:.3f}"
        draft.add("style ignored", Severity.WARNING, evidence, _MORE_STYLE)
