"""What in a picture's settings explains a fault of its pixels, or what a person sees in it."""

from __future__ import annotations

from collections.abc import Set
from typing import TypeVar

from bottega.doctor.answer import DoctorFinding
from bottega.doctor.image.settings import is_v_by_name
from bottega.generation.metadata import PictureMetadata
from bottega.generation.profiles import Profile
from bottega.generation.records import PictureSettings
from bottega.generation.symptoms import likely_causes
from bottega.runtime.findings import Finding, Severity

_WRONG_SETTINGS = (
    (("burnt", "over-saturated"), "guidance too high", "guidance {guidance:g}"),
    (("dull",), "guidance too low", "guidance {guidance:g}"),
    (("noise", "dull", "one colour"), "steps too low", "only {steps} steps"),
    (("noise", "dull", "one colour"), "other prediction type", "the prediction type"),
)
"""Faults of the pixels, the finding about settings that explains them, and its name in messages; the first counts."""

_OF_A_WRONG_TARGET = ("noise", "dull", "one colour")
"""What a network's answer looks like when it is taken for another prediction type."""

_HEAVY = 1.5  # a LoRA above this weight is blamed where nothing else explains the fault

T = TypeVar("T")


# --- faults of the pixels --------------------------------------------------------------------------------------------


def with_likely_cause(
    finding: Finding, metadata: PictureMetadata, profile: Profile | None, settings: list[DoctorFinding]
) -> DoctorFinding:
    """A fault of the pixels, with what in the metadata would explain it.

    Args:
        finding: of the pixels.
        metadata: of the picture.
        profile: of the model that it names; None: not known.
        settings: what was found about the settings.
    """
    cause = _likely_cause(finding.name, metadata, profile, {found.name for found in settings})
    evidence = finding.evidence
    if cause:
        evidence = f"{evidence}; likely cause: {cause}"
    return DoctorFinding(finding.name, finding.severity, evidence, finding.advice)


def _likely_cause(fault: str, metadata: PictureMetadata, profile: Profile | None, wrong: Set[str]) -> str:
    """The first that applies, the surest one first; empty where none does. wrong: names of findings about settings."""
    return (
        _wrong_setting(fault, metadata, wrong)
        or _unsaid_prediction(fault, metadata)
        or _overflow(fault, profile)
        or _heavy_lora(fault, metadata)
    )


def _wrong_setting(fault: str, metadata: PictureMetadata, wrong: Set[str]) -> str:
    for faults, setting, words in _WRONG_SETTINGS:
        if fault in faults and setting in wrong:
            return words.format(guidance=metadata.guidance_scale, steps=metadata.steps)
    return ""


def _unsaid_prediction(fault: str, metadata: PictureMetadata) -> str:
    is_unsaid = is_v_by_name(metadata.model) and metadata.prediction_type is None
    if fault not in _OF_A_WRONG_TARGET or not is_unsaid:
        return ""
    return f"{metadata.model} predicts v by its name, and the file does not say that it was sampled so"


def _overflow(fault: str, profile: Profile | None) -> str:
    if fault == "black" and profile is not None and "sdxl" in profile.families:
        return "SDXL's autoencoder, which overflows in fp16"
    return ""


def _heavy_lora(fault: str, metadata: PictureMetadata) -> str:
    if fault == "one channel":  # no weight leaves the other channels without a value
        return ""
    for lora in metadata.loras:
        if abs(lora.weight or 0) > _HEAVY:
            return f"the weight of the LoRA {lora.name}"
    return ""


# --- what a person sees ----------------------------------------------------------------------------------------------


def explain_symptom(
    symptom: str, metadata: PictureMetadata, profile: Profile | None, size: tuple[int, int]
) -> list[DoctorFinding]:
    """The causes of a symptom, the likeliest first; what the file does not say counts as usual.

    Args:
        symptom: of `bottega.generation.symptoms`.
        metadata: of the picture.
        profile: of the model that it names; None: not known, so that no cause is shown by the settings.
        size: (width, height) of the picture.

    Raises:
        RequestError: there is no such symptom.
    """
    settings = None
    if profile is not None:
        settings = _known_settings(metadata, profile, size)
    findings = []
    for suspicion in likely_causes(symptom, settings, profile):
        evidence = suspicion.cause.cause
        if suspicion.shown:
            evidence += "; the picture's own settings show it"
        findings.append(DoctorFinding(symptom, Severity.WARNING, evidence, suspicion.cause.cure))
    return findings


def _known_settings(metadata: PictureMetadata, profile: Profile, size: tuple[int, int]) -> PictureSettings:
    """The settings that the file says; the profile's own where it says nothing, so that they accuse nobody."""
    rescale = metadata.guidance_rescale
    if rescale is None:  # 0 is a value: none
        rescale = float(profile.guidance_rescale.default or 0)
    return PictureSettings(
        prompt=metadata.prompt or "",
        negative_prompt=metadata.negative_prompt or "",
        width=_said(metadata.width, size[0]),
        height=_said(metadata.height, size[1]),
        steps=_said(metadata.steps, int(profile.steps.default or 0)),
        guidance_scale=_said(metadata.guidance_scale, float(profile.guidance_scale.default or 0)),
        guidance_rescale=rescale,
        sampler=_said(metadata.our_sampler, profile.sampler.default),
        seed=metadata.seed or 0,
        count=1,
        clip_skip=_said(metadata.clip_skip, profile.clip_skip.default),
        strength=metadata.strength,
        prediction_type="epsilon",
        profile=profile.name,
    )


def _said(value: T | None, usual: T) -> T:
    """What the file says; the usual value where it says nothing, or nothing that could be: no steps, no width."""
    return value or usual
