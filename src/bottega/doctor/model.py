"""`bottega doctor model`: what a checkpoint is, what lacks or does not belong in it, and how it would be drawn with.

Headers and configurations are read, never a weight: a file of 7 GB takes milliseconds, and neither torch nor a GPU is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from bottega.doctor.answer import Answer, DoctorFinding, FactValue, NotJudged
from bottega.generation.profiles import Limit, Profile, choose_profile
from bottega.models.identify import CheckpointIdentity, Statement, identify
from bottega.models.names import resolve
from bottega.runtime.errors import RequestError, StorageError
from bottega.runtime.findings import Severity

_EIGHT_BITS = ("F8_E4M3", "F8_E5M2", "I8", "U8")
_PREDICTS = ("sdxl", "sdxl_inpaint", "sdxl_refiner", "sd1", "sd2", "pixart")
"""Families of which some models predict one thing and some another."""

_MEASURE_OR_NAME = "let generation measure it, or name the right one with --prediction-type"
_UNITS = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))


def examine_model(name: str, *, profile: str | None = None, model_cache: str | None = None) -> Answer:
    """What is wrong with a checkpoint, what it is, and which profile it would be drawn with.

    Args:
        name: a file or folder, or the name of a model in the package or in the Hub's cache.
        profile: of which to show the limits; None: the one that the checkpoint chooses.
        model_cache: the Hub's cache, if not the one that the environment names.

    Raises:
        RequestError: the name means nothing here, the checkpoint is pickled, or the profile is of another architecture.
    """
    try:
        identity = identify(resolve(name, cache=model_cache))
    except StorageError as error:
        damage = DoctorFinding("damaged file", Severity.ERROR, str(error), "fetch it again")
        return Answer.of(name, [damage], [NotJudged("everything else", "the file cannot be read")])
    chosen, why = _profile(identity, profile)
    findings = [
        *_family_findings(identity),
        *_part_findings(identity),
        *_prediction_findings(identity),
        *_foreign_findings(identity),
    ]
    facts = _facts(identity)
    if chosen is None:
        facts["profile"] = f"none: {why}"
    else:
        facts |= _profile_facts(chosen, why)
    return Answer.of(name, findings, _not_judged(identity), facts)


def _profile(identity: CheckpointIdentity, asked: str | None) -> tuple[Profile | None, str]:
    """The profile and why; none where nothing can be drawn with the checkpoint. A wrong wish is a wrong request."""
    if asked is not None:
        return choose_profile(identity, asked)
    try:
        return choose_profile(identity)
    except RequestError:
        return None, f"pictures are drawn with sdxl, pixart and ldm, not with {identity.family}"


# --- findings ----------------------------------------------------------------------------------------------------


def _family_findings(identity: CheckpointIdentity) -> list[DoctorFinding]:
    if identity.family == "unknown":
        return [
            DoctorFinding(
                "unknown network", Severity.ERROR, identity.why, "name a checkpoint of SDXL, PixArt or bottega's own"
            )
        ]
    if identity.family in ("sdxl_refiner", "sdxl_inpaint", "sd1", "sd2", "flux", "sd3"):
        evidence = f"it is of the family {identity.family} ({identity.why}); bottega draws with sdxl, pixart and ldm"
        return [DoctorFinding("not drawn with", Severity.WARNING, evidence, "take another checkpoint")]
    if identity.variant in ("edm", "instruct-pix2pix"):
        evidence = f"it is a variant of {identity.family} that needs a sampler of its own: {identity.variant}"
        return [DoctorFinding("unusual variant", Severity.WARNING, evidence, "take a plain checkpoint of the family")]
    return []


def _part_findings(identity: CheckpointIdentity) -> list[DoctorFinding]:
    return [*_gaps_in_parts(identity), *_missing_parts(identity), *_eight_bit_parts(identity)]


def _gaps_in_parts(identity: CheckpointIdentity) -> list[DoctorFinding]:
    found = []
    for part in identity.parts:
        if part.gaps:
            count = _counted(len(part.gaps), "tensor or block", "tensors or blocks")
            evidence = f"{part.name} lacks {count}: {_first(part.gaps)}"
            cure = "fetch the checkpoint again, or another one"
            found.append(DoctorFinding("missing tensors", Severity.ERROR, evidence, cure))
    return found


def _missing_parts(identity: CheckpointIdentity) -> list[DoctorFinding]:
    if not identity.missing or identity.family in ("style_adapter", "lora"):
        return []
    lacks = ", ".join(identity.missing)
    if identity.layout == "component":
        return [DoctorFinding("one part alone", Severity.INFO, f"to draw with it takes {lacks}, too")]
    return [DoctorFinding("missing parts", Severity.ERROR, f"it has no {lacks}", _cure_of_missing(identity))]


def _eight_bit_parts(identity: CheckpointIdentity) -> list[DoctorFinding]:
    eight = [part.name for part in identity.parts if set(part.dtypes) & set(_EIGHT_BITS)]
    if not eight:
        return []
    evidence = f"{', '.join(eight)} hold numbers of 8 bits, which lose detail and are computed in 16 bits anyway"
    cure = "take the file in F16 or BF16, if it is published"
    return [DoctorFinding("eight-bit weights", Severity.WARNING, evidence, cure)]


def _cure_of_missing(identity: CheckpointIdentity) -> str:
    if identity.missing == ("vae",):
        return (
            "take the file with its autoencoder, often named “with VAE”, or put the checkpoint into a folder with one"
        )
    return "take the whole checkpoint: a file without text encoders holds the network alone"


def _prediction_findings(identity: CheckpointIdentity) -> list[DoctorFinding]:
    """What is to be said of the prediction type that the checkpoint states, or does not."""
    said = identity.prediction
    if identity.family not in _PREDICTS:
        return []
    if said is not None and identity.contradictions:
        return [_contradiction(said, identity.contradictions)]
    if said is not None and not said.weak:
        return _names_against(said, identity)
    if said is not None and said.type != "epsilon":
        return [
            DoctorFinding(
                "prediction type by name alone",
                Severity.WARNING,
                f"only a name says {_shown(said)}; most programs take ε where a file says nothing, and draw noise",
                f"--prediction-type {said.type}, or let generation measure it",
            )
        ]
    return [
        DoctorFinding(
            "prediction type not stated",
            Severity.INFO,
            "nothing in it says what the network predicts; ε is what most programs take, and generation measures it",
        )
    ]


def _contradiction(said: Statement, contradictions: Sequence[Statement]) -> DoctorFinding:
    others = "; ".join(map(_shown, contradictions))
    return DoctorFinding(
        "contradicting prediction types",
        Severity.ERROR,
        f"it says {_shown(said)}, and also {others}: sampled by the wrong one, it draws noise",
        _MEASURE_OR_NAME,
    )


def _names_against(said: Statement, identity: CheckpointIdentity) -> list[DoctorFinding]:
    """The first name, if any, that speaks against what the content says."""
    for hint in identity.stated:
        if hint.weak and hint.type != said.type:
            evidence = f"it says {_shown(said)}, and it is called otherwise: {_shown(hint)}"
            return [DoctorFinding("name against content", Severity.WARNING, evidence, _MEASURE_OR_NAME)]
    return []


def _foreign_findings(identity: CheckpointIdentity) -> list[DoctorFinding]:
    foreign = identity.foreign
    if not foreign.count:
        return []
    kinds = ", ".join(f"{count} × {kind}" for kind, count in foreign.kinds.items())
    evidence = (
        f"{_counted(foreign.count, 'tensor belongs', 'tensors belong')} to no part ({kinds}): {_first(foreign.first)}"
    )
    cure = "nothing: they are left aside"
    if "optimizer state" in foreign.kinds or "EMA copy" in foreign.kinds:
        cure = "nothing: they are left aside; without what a training leaves behind, the file would be smaller"
    return [DoctorFinding("foreign tensors", Severity.WARNING, evidence, cure)]


# --- facts -------------------------------------------------------------------------------------------------------


def _facts(identity: CheckpointIdentity) -> dict[str, FactValue]:
    said = identity.prediction
    variant = f", {identity.variant}" if identity.variant else ""
    facts: dict[str, FactValue] = {
        "family": f"{identity.family}{variant}",
        "because": identity.why,
        "layout": identity.layout,
        "size": _size(identity),
        "precision": list(identity.dtypes),
        "parts": [f"{part.name} {_number(part.parameters)}" for part in identity.parts],
    }
    if said is not None or identity.family in _PREDICTS:
        facts["prediction type"] = "not stated" if said is None else _shown(said)
        facts["zero terminal SNR"] = identity.zero_terminal_snr
    if len(identity.stated) > 1:
        facts["also stated"] = [_shown(each) for each in identity.stated[1:]]
    if identity.native_side is not None:
        facts["made for"] = f"{identity.native_side} × {identity.native_side} pixels"
    facts["names"] = [f"{name} ({where})" for where, name in identity.names]
    return facts


def _profile_facts(profile: Profile, why: str) -> dict[str, FactValue]:
    pixels = profile.pixels
    sizes = (
        f"{pixels.default[0]} × {pixels.default[1]}, from {pixels.least}² to {pixels.most}², {pixels.multiple} px steps"
    )
    tags = profile.quality_tags
    facts: dict[str, FactValue] = {
        "profile": f"{profile.name}, {profile.title} ({why})",
        "sizes": f"{sizes} ({pixels.mark})",
        "steps": _limit(profile.steps),
        "guidance": _limit(profile.guidance_scale),
        "sampler": f"{profile.sampler.default} ({profile.sampler.mark})",
    }
    if profile.sampler.allowed is not None:
        facts["sampler"] = f"{', '.join(profile.sampler.allowed)} only ({profile.sampler.mark})"
    if profile.lora_weight is not None:
        facts["LoRA weight"] = _limit(profile.lora_weight)
    if tags is not None:
        facts["quality tags"] = f"{', '.join(tags.prompt)}, at the {tags.place} ({tags.mark})"
    return facts


def _not_judged(identity: CheckpointIdentity) -> list[NotJudged]:
    items = [NotJudged(what, why) for what, why in identity.not_judged]
    vae = next((part for part in identity.parts if part.name == "vae"), None)
    if vae is not None and "F16" in vae.dtypes and identity.family == "sdxl":
        items.append(NotJudged("whether its autoencoder overflows in float16", "that takes decoding a picture"))
    return items


def _size(identity: CheckpointIdentity) -> str:
    if identity.width is None:
        return "unknown"
    depth = "" if identity.depth is None else f", {identity.depth} transformer blocks"
    size = {"published": "as published", "miniature": "a miniature", "other": "of its own", None: "of its own"}
    return f"{size[identity.size]}: {identity.width} wide{depth}"


def _shown(statement: Statement) -> str:
    return f"{statement.type}, by {statement.where}"


def _limit(limit: Limit) -> str:
    text = f"{limit.default:g}, allowed {limit.allowed[0]:g} to {limit.allowed[1]:g}"
    if limit.recommended is not None:
        text += f", best {limit.recommended[0]:g} to {limit.recommended[1]:g}"
    return f"{text} ({limit.mark})"


def _number(count: int) -> str:
    for unit, word in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {word}"
    return str(count)


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
