"""`bottega doctor image`: what is wrong with a picture, the likely cause, and the cure.

Read `examine` from top to bottom: the file, what it says of how it was made, its pixels, its settings, and how it
stands to its content and style where they are given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.findings import Finding, Severity

if TYPE_CHECKING:
    from bottega.generation.metadata import LoRAMention, PictureMetadata
    from bottega.generation.profiles import Limit, Profile
    from bottega.generation.records import PictureSettings
    from bottega.quality.measure import ImageEncoder, Reference
    from bottega.visual.pictures import Picture

_DISTILLED = re.compile(r"lightning|turbo|\blcm\b|hyper|dmd|schnell|distill", re.IGNORECASE)
"""Models and LoRAs that are drawn with in few steps and hardly any guidance."""

_V_PREDICTION = re.compile(r"v[-_ ]?pred", re.IGNORECASE)
# PixArt first: its own name goes on with XL.
_FAMILY_NAMES = (
    ("pixart_512", r"pixart.*512"),
    ("pixart_1024", r"pixart"),
    ("sdxl_base", r"sd[-_ ]?xl|xl(?![a-z])"),
)
_FAR = 1.25  # beyond a limit by this factor it is a fault, up to there a warning
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

_NEAR_PALETTES = 3.0  # ΔE: content and style that share their colours already can come no nearer
_COPIED = 0.6  # edge similarity with the style picture; two unrelated pictures have 0.3 at most

_HEADS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<!doctype html", "a page of HTML, such as a server answers with instead of the picture", "download it again"),
    (b"<html", "a page of HTML, such as a server answers with instead of the picture", "download it again"),
    (b"<svg", "an SVG drawing, which has no pixels", "render it to a PNG first"),
    (b"{", "text that looks like JSON", "name the picture's own file"),
    (b"PK\x03\x04", "a ZIP archive, as torch's .pt and .ckpt files are", "name the picture's own file"),
    (b"\x80", "a pickle", "name the picture's own file, and do not load this one"),
    (b"%PDF", "a PDF", "export its picture first"),
)


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
    import numpy as np

    from bottega.data.pictures import UnusablePictureError, open_picture
    from bottega.generation.checks import check_picture
    from bottega.generation.metadata import read_metadata

    _require_file(request.path)

    # 1. What the file says; a torn file still says it.
    metadata = read_metadata(request.path)
    facts = _facts(metadata)
    not_judged = [NotJudged("metadata", note) for note in metadata.notes]

    # 2. Whether it is a picture at all.
    try:
        picture = np.asarray(open_picture(request.path), np.uint8)
    except UnusablePictureError as error:
        nothing = NotJudged("pixels, settings", "the picture can't be decoded")
        return Answer.of(str(request.path), [_unusable(request.path, error.reason)], [*not_judged, nothing], facts)
    facts["pixels"] = f"{picture.shape[1]}x{picture.shape[0]}"

    # 3. Its pixels.
    seen = [finding for finding in check_picture(picture) if finding.name != "not enough to tell"]
    if min(picture.shape[:2]) < 16:
        not_judged.append(NotJudged("pixels", "a picture is judged from 16 pixels a side on"))
    not_judged.append(NotJudged("hands, faces, text, and whether the prompt was followed", "no measure here sees them"))

    # 4. Its settings.
    settings = _settings(metadata, not_judged)
    findings = [_pixel_finding(finding, metadata, settings) for finding in seen]
    findings += [*settings, *_edited(request.path, picture)]

    # 5. Beside its content and style.
    findings += _beside(request, picture, facts, not_judged)

    # 6. What a person sees, which no measure here does.
    if request.symptom is not None:
        findings += _by_symptom(request.symptom, metadata, (picture.shape[1], picture.shape[0]))
    return Answer.of(str(request.path), findings, not_judged, facts)


# --- the file --------------------------------------------------------------------------------------------------------


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise RequestError(f"one picture is examined, received the folder {path}; name a file in it")
    if not path.exists():
        raise MissingError(f"{path}: there is no such file; name another")


def _unusable(path: Path, reason: str) -> DoctorFinding:
    """What a file is that can't be decoded."""
    size = path.stat().st_size
    if reason == "truncated":
        evidence = f"the file ends after {size} bytes, before the picture does"
        return DoctorFinding("truncated", Severity.ERROR, evidence, "copy or download it again, or make it again")
    if reason == "enormous":
        evidence = "it has more pixels than are decoded (100 million)"
        return DoctorFinding("enormous", Severity.ERROR, evidence, "scale it down with the tool that made it")
    if reason == "mode":
        evidence = "its values are floats, whose range is unknown"
        return DoctorFinding("unknown range", Severity.ERROR, evidence, "store it with 8 or 16 bits a channel")
    what, cure = _content_of(path, size)
    return DoctorFinding("no picture", Severity.ERROR, f"the file is {what}", cure)


def _content_of(path: Path, size: int) -> tuple[str, str]:
    """What the first bytes of a file that is no picture say, and what to do."""
    again = "name the picture's own file, or download it again"
    if size == 0:
        return "empty", "make it again: whatever wrote it was stopped, or the disk was full"
    with open(path, "rb") as stream:
        head = stream.read(512)
    if head.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")):
        return f"a damaged picture of {size} bytes", "copy or download it again, or make it again"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for sign, what, cure in _HEADS:
        if start.startswith(sign.lower()):
            return what, cure
    if not head.strip(b"\x00"):
        return "full of zeros, as after a crash of the file system", again
    if b"\x00" not in head and _is_text(head):
        return f"text, whatever its name {path.name} says", again
    return "in no format of pictures that is known here", again


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # a character may be cut in two at the end
    except UnicodeDecodeError:
        return False
    return True


def _edited(path: Path, picture: Picture) -> list[DoctorFinding]:
    """Whether the pixels are still those that were written with the record."""
    from bottega.generation.metadata.again import request_from
    from bottega.runtime.files import sha256_bytes

    try:
        written = request_from(path).pixels_sha256
    except RequestError:
        return []
    if not written or written == sha256_bytes(picture.tobytes()):
        return []
    evidence = "the pixels are not those that were written with the metadata: it was edited, scaled or saved again"
    return [DoctorFinding("changed since", Severity.WARNING, evidence, "judge the original, if there is one")]


def _facts(metadata: PictureMetadata) -> dict[str, FactValue]:
    """What the file says, by name; what it does not say is left out."""
    size = f"{metadata.width}x{metadata.height}" if metadata.width and metadata.height else None
    said: dict[str, FactValue] = {
        "made by": metadata.tool,
        "version": metadata.version,
        "prompt": metadata.prompt,
        "negative prompt": metadata.negative_prompt,
        "sampler": f"{metadata.sampler} {metadata.schedule}".strip(),
        "steps": metadata.steps,
        "guidance": metadata.guidance_scale,
        "guidance rescale": metadata.guidance_rescale,
        "seed": metadata.seed,
        "asked size": size,
        "model": metadata.model,
        "model hash": metadata.model_hash,
        "LoRAs": [_printable(_lora(lora)) for lora in metadata.loras],
        "clip skip": metadata.clip_skip,
        "strength": metadata.strength,
        "prediction type": metadata.prediction_type,
    }
    shown: dict[str, FactValue] = {}
    for name, value in said.items():
        if value not in (None, "", []):
            shown[name] = _printable(value) if isinstance(value, str) else value
    return shown


def _lora(lora: LoRAMention) -> str:
    return lora.name if lora.weight is None else f"{lora.name} {lora.weight:g}"


def _printable(text: str) -> str:
    """Without what a terminal would obey: a prompt in a file may hold escape sequences that hide what follows."""
    return "".join(character if character.isprintable() or character == "\n" else "�" for character in text)


# --- the settings ----------------------------------------------------------------------------------------------------


def _settings(metadata: PictureMetadata, not_judged: list[NotJudged]) -> list[DoctorFinding]:
    """PictureSettings outside of what the model's family is drawn with."""
    if metadata.is_empty:
        not_judged.append(NotJudged("settings", "the file says nothing of how it was made"))
        return []
    profile = _profile(metadata)
    if profile is None:
        named = (
            f"the model {metadata.model!r} is of no family known by its name" if metadata.model else "no model named"
        )
        not_judged.append(NotJudged("settings", named))
        return []
    found = [_size(metadata, profile), _sampler(metadata, profile), _prediction(metadata, profile)]
    names = [metadata.model, metadata.our_sampler or "", *(lora.name for lora in metadata.loras)]
    if any(_DISTILLED.search(name) for name in names):
        not_judged.append(NotJudged("guidance and steps", "a distilled model or LoRA has limits of its own"))
    else:
        found += [_guidance(metadata, profile), _steps(metadata, profile)]
    if metadata.strength is not None and metadata.steps is not None:
        found.append(_few_img2img_steps(metadata.steps, metadata.strength))
    return [finding for finding in found if finding is not None]


def _profile(metadata: PictureMetadata) -> Profile | None:
    """The profile of our own record, else by the model's name; None where neither says."""
    from bottega.generation.profiles import ORDER, load_profile, profile_names

    own = metadata.other.get("Profile", "")
    if own in profile_names():
        return load_profile(own)
    is_v = metadata.prediction_type == "v_prediction" or _V_PREDICTION.search(metadata.model) is not None
    for profile in map(load_profile, ORDER):
        is_named = any(re.search(pattern, metadata.model, re.IGNORECASE) for pattern in profile.names)
        if is_named and (is_v or profile.prediction_types != ("v_prediction",)):
            return profile
    text = f"{metadata.model} {metadata.other.get('base', '')}"
    for name, pattern in _FAMILY_NAMES:
        if re.search(pattern, text, re.IGNORECASE):
            return load_profile(name)
    return None


def _size(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    if metadata.width is None or metadata.height is None:
        return None
    side = math.sqrt(metadata.width * metadata.height)
    size = f"{metadata.width}x{metadata.height}"
    least, most = profile.pixels.least, profile.pixels.most
    if side < least:
        severity = Severity.ERROR if side * _FAR < least else Severity.WARNING
        evidence = f"{size} was asked for, and {profile.title} draw from {least}² on: below, objects fall apart"
        width, height = profile.pixels.default
        return DoctorFinding("too small", severity, evidence, f"ask for {width}x{height}, and scale down afterwards")
    if side > most:
        evidence = f"{size} was asked for, and {profile.title} draw up to {most}²: beyond, objects repeat"
        return DoctorFinding("too large", Severity.WARNING, evidence, f"draw at {most}² at most, then upscale")
    return None


def _guidance(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    value = metadata.guidance_scale
    if value is None:
        return None
    return _outside("guidance", value, profile.guidance_scale, profile.title, "burns colours", "leaves the prompt out")


def _steps(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    if metadata.steps is None:
        return None
    steps = profile.steps
    return _outside(
        "steps", metadata.steps, steps, profile.title, "costs time and gains nothing", "leaves it unfinished"
    )


def _outside(what: str, value: float, limit: Limit, title: str, too_high: str, too_low: str) -> DoctorFinding | None:
    low, high = limit.allowed
    if low <= value <= high:
        return None
    is_high = value > high
    # More steps than needed are no fault, however many.
    is_far = (value > high * _FAR and what == "guidance") or value * _FAR < low
    evidence = f"{what} {value:g}, and {title} are drawn with {low:g} to {high:g}: {too_high if is_high else too_low}"
    name = f"{what} too high" if is_high else f"{what} too low"
    severity = Severity.ERROR if is_far else Severity.WARNING
    return DoctorFinding(name, severity, evidence, f"{what} {limit.correct(value):g}")


def _sampler(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    allowed = profile.sampler.allowed
    is_v = profile.prediction_types == ("v_prediction",) or metadata.prediction_type == "v_prediction"
    if allowed is not None and metadata.our_sampler is not None and metadata.our_sampler not in allowed:
        evidence = f"sampler {metadata.our_sampler}, and {profile.title} are drawn with {', '.join(allowed)}"
        return DoctorFinding("other sampler", Severity.WARNING, evidence, f"sampler {profile.sampler.default}")
    if is_v and (metadata.our_sampler or "").endswith(("_karras", "euler_a")):
        evidence = (
            f"sampler {metadata.our_sampler} with a v-prediction model, whose noise goes on to zero signal: Karras's "
            "spacing and added noise leave blotches there"
        )
        return DoctorFinding("other sampler", Severity.WARNING, evidence, "sampler euler, rescale 0.7")
    return None


def _prediction(metadata: PictureMetadata, profile: Profile) -> DoctorFinding | None:
    said, kinds = metadata.prediction_type, profile.prediction_types
    if said is not None and kinds and said not in kinds:
        evidence = f"sampled as {said}, and {profile.title} predict {' or '.join(kinds)}"
        return DoctorFinding("other prediction type", Severity.ERROR, evidence, f"--prediction-type {kinds[0]}")
    is_named_v = _V_PREDICTION.search(metadata.model) is not None
    if is_named_v and said == "epsilon":
        evidence = f"sampled as epsilon, and the model's name {metadata.model!r} says v-prediction"
        return DoctorFinding("other prediction type", Severity.ERROR, evidence, "--prediction-type v_prediction")
    return None


def _few_img2img_steps(steps: int, strength: float) -> DoctorFinding | None:
    run = round(steps * strength)
    if run >= 4:
        return None
    evidence = f"strength {strength:g} of {steps} steps leaves {run} to draw with: the content comes back blurred"
    return DoctorFinding("too few steps", Severity.WARNING, evidence, "more steps, or a higher strength")


# --- the pixels ------------------------------------------------------------------------------------------------------


def _pixel_finding(finding: Finding, metadata: PictureMetadata, settings: Sequence[DoctorFinding]) -> DoctorFinding:
    cause = _likely_cause(finding.name, metadata, settings)
    evidence = f"{finding.evidence}; likely cause: {cause}" if cause else finding.evidence
    return DoctorFinding(finding.name, finding.severity, evidence, finding.advice)


def _likely_cause(name: str, metadata: PictureMetadata, settings: Sequence[DoctorFinding]) -> str:
    """What in the metadata would explain a fault of the pixels; empty where nothing does."""
    wrong = {finding.name for finding in settings}
    guidance = metadata.guidance_scale
    if name in ("burnt", "over-saturated") and "guidance too high" in wrong:
        return f"guidance {guidance:g}"
    if name == "dull" and "guidance too low" in wrong:
        return f"guidance {guidance:g}"
    if name in ("noise", "dull", "one colour") and "steps too low" in wrong:
        return f"only {metadata.steps} steps"
    if name in ("noise", "one colour", "dull"):
        if "other prediction type" in wrong:
            return "the prediction type"
        if _V_PREDICTION.search(metadata.model) is not None and metadata.prediction_type is None:
            return f"{metadata.model} predicts v by its name, and the file does not say that it was sampled so"
    profile = None if metadata.is_empty else _profile(metadata)
    if name == "black" and profile is not None and "sdxl" in profile.families:
        return "SDXL's autoencoder, which overflows in fp16"
    heavy = [lora.name for lora in metadata.loras if abs(lora.weight or 0) > 1.5]
    if heavy and name != "one channel":
        return f"the weight of the LoRA {heavy[0]}"
    return ""


# --- what a person sees ----------------------------------------------------------------------------------------------


def _by_symptom(symptom: str, metadata: PictureMetadata, size: tuple[int, int]) -> list[DoctorFinding]:
    """The causes of a symptom, the likeliest first; what the file does not say counts as usual."""
    from bottega.generation.symptoms import likely_causes

    profile = None if metadata.is_empty else _profile(metadata)
    settings = None if profile is None else _known_settings(metadata, profile, size)
    findings = []
    for suspicion in likely_causes(symptom, settings, profile):
        shown = "; the picture's own settings show it" if suspicion.shown else ""
        findings.append(
            DoctorFinding(symptom, Severity.WARNING, f"{suspicion.cause.cause}{shown}", suspicion.cause.cure)
        )
    return findings


def _known_settings(metadata: PictureMetadata, profile: Profile, size: tuple[int, int]) -> PictureSettings:
    """The settings that the file says; the profile's own where it says nothing, so that they accuse nobody."""
    from bottega.generation.records import PictureSettings

    rescale = metadata.guidance_rescale
    return PictureSettings(
        prompt=metadata.prompt or "",
        negative_prompt=metadata.negative_prompt or "",
        width=metadata.width or size[0],
        height=metadata.height or size[1],
        steps=metadata.steps or int(profile.steps.default or 0),
        guidance_scale=metadata.guidance_scale or float(profile.guidance_scale.default or 0),
        guidance_rescale=float(profile.guidance_rescale.default or 0) if rescale is None else rescale,
        sampler=metadata.our_sampler or profile.sampler.default,
        seed=metadata.seed or 0,
        count=1,
        clip_skip=metadata.clip_skip or profile.clip_skip.default,
        strength=metadata.strength,
        prediction_type="epsilon",
        profile=profile.name,
    )


# --- beside content and style ----------------------------------------------------------------------------------------


def _beside(
    request: ImageRequest, picture: Picture, facts: dict[str, FactValue], not_judged: list[NotJudged]
) -> list[DoctorFinding]:
    """Structure kept, style taken over, nothing of the style picture's own copied."""
    from bottega.quality.scorer import fitted

    if request.content is None or request.style is None:
        missing = [name for name in ("content", "style") if getattr(request, name) is None]
        what = "whether the structure was kept" if missing == ["content"] else "whether the style was taken over"
        what = what if len(missing) == 1 else "structure kept, style taken over"
        not_judged.append(NotJudged(what, " and ".join(f"--{name} was not given" for name in missing)))
    if (request.content is None and request.style is None) or min(picture.shape[:2]) < 16:
        return []
    size = (picture.shape[1], picture.shape[0])
    drawn = _reference(picture, request.encoder)
    content = None if request.content is None else _reference(fitted(str(request.content), size), request.encoder)
    style = None if request.style is None else _reference(fitted(str(request.style), size), request.encoder)
    if request.encoder is None:
        not_judged.append(NotJudged("likeness by CLIP", "--clip was not given"))
    findings = []
    if content is not None:
        findings += _against_content(drawn, content, style, facts)
    if style is not None:
        findings += _against_style(drawn, content, style, facts)
    return findings


def _reference(picture: Picture, encoder: ImageEncoder | None) -> Reference:
    """What the scores need of a picture, with CLIP's vector where there is an encoder."""
    import numpy as np

    from bottega.quality.measure import reference

    vector = None if encoder is None else np.asarray(encoder(picture[None]), np.float32)[0]
    return reference(picture, vector)


def _against_content(
    drawn: Reference, content: Reference, style: Reference | None, facts: dict[str, FactValue]
) -> list[DoctorFinding]:
    """Quality's own checks with its limits: all of them with a style, those of structure alone without."""
    from bottega.quality.config import Thresholds
    from bottega.quality.grade import Grader
    from bottega.quality.measure import compare

    scores = compare(drawn, content, style if style is not None else content)
    for name in ("structure", "edge_64", "change"):
        if name in scores:
            facts[f"{name} against the content"] = scores[name]
    findings = []
    named = set()
    for check in Grader(Thresholds()).failed(scores):
        # `content` is CLIP's, whose limits belong to one CLIP and are calibrated for others.
        is_asked = check.name in _STRUCTURE_CHECKS if style is None else check.name != "content"
        if is_asked and check.name not in named:
            named.add(check.name)
            evidence = f"{check.fault} {scores[check.score]:.3f}"
            findings.append(DoctorFinding(check.name, Severity.ERROR, evidence, _CURES.get(check.name, "")))
    return findings


def _against_style(
    drawn: Reference, content: Reference | None, style: Reference, facts: dict[str, FactValue]
) -> list[DoctorFinding]:
    from bottega.evaluation.colour import palette, palette_distance
    from bottega.quality.measure import compare

    findings = []
    colours = palette(style.picture)
    distance = palette_distance(palette(drawn.picture), colours)
    facts["palette from the style, ΔE"] = distance
    if content is not None:
        before = palette_distance(palette(content.picture), colours)
        facts["palette of the content from the style, ΔE"] = before
        if distance >= before > _NEAR_PALETTES:
            evidence = f"its palette is {distance:.1f} ΔE from the style's, the content's was {before:.1f}"
            findings.append(DoctorFinding("style ignored", Severity.WARNING, evidence, _MORE_STYLE))
    copied = compare(drawn, style, style).get("edge_64", 0.0)
    kept = compare(drawn, content, style).get("edge_64", 0.0) if content is not None else 0.0
    if copied > max(_COPIED, kept):
        evidence = f"its edges are where the style picture has them, similarity {copied:.2f}"
        findings.append(DoctorFinding("style picture copied", Severity.ERROR, evidence, _LESS_STYLE))
    if content is not None and drawn.embedding is not None:
        scores = compare(drawn, content, style)
        for name in ("content_sim", "style_sim", "style_gain"):
            facts[name] = scores[name]
        if scores["style_gain"] < 0:
            evidence = f"by CLIP no nearer to the style than the content was, gain {scores['style_gain']:.3f}"
            findings.append(DoctorFinding("style ignored", Severity.WARNING, evidence, _MORE_STYLE))
    return findings
