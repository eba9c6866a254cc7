"""The tables of profiles and of symptoms in Markdown, for the documentation and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from bottega.generation.profiles import Fact, Limit, Profile, load_profile, profile_names
from bottega.generation.symptoms import load_symptoms

_GROUPS = (
    "pixels", "steps", "guidance_scale", "guidance_rescale", "strength", "sampler", "clip_skip", "lora_weight",
    "quality_tags",
)  # fmt: skip


def limits_table(names: Iterable[str] = ()) -> str:
    """The numbers of profiles: a row each; ᵒ marks what is official, ᶜ what is said by others."""
    header = ("profile", "for", "size", "steps", "guidance", "rescale", "sampler", "LoRA weight", "quality tags")
    rows = []
    for profile in map(load_profile, list(names) or profile_names()):
        rows.append(
            (
                f"`{profile.name}`",
                profile.title,
                _size(profile),
                _limit(profile.steps),
                _limit(profile.guidance_scale),
                f"{profile.guidance_rescale.default:g}{_mark(profile.guidance_rescale)}",
                _sampler(profile),
                _lora_weight(profile),
                _tags(profile),
            )
        )
    return _table(header, rows)


def sources_table() -> str:
    """Where each group of facts comes from: a row for each profile and group."""
    rows = []
    for profile in map(load_profile, profile_names()):
        for name in _GROUPS:
            fact: Fact | None = getattr(profile, name)
            if fact is not None:
                rows.append((f"`{profile.name}`", f"`{name}`", fact.mark, fact.source))
    return _table(("profile", "facts", "mark", "source"), rows)


def notes_table() -> str:
    """What no number holds."""
    rows = []
    for profile in map(load_profile, profile_names()):
        rows += [(f"`{profile.name}`", note.text, note.mark, note.source) for note in profile.notes]
    return _table(("profile", "note", "mark", "source"), rows)


def symptoms_table() -> str:
    """What a picture looks like, its likely causes, and the cures."""
    rows = []
    for symptom in load_symptoms():
        for number, cause in enumerate(symptom.causes):
            name = f"**{symptom.name}**: {symptom.looks}" if number == 0 else ""
            rows.append((name, cause.cause, cause.cure))
    return _table(("symptom", "likely cause", "cure"), rows)


def _size(profile: Profile) -> str:
    pixels = profile.pixels
    if pixels.least == pixels.most:
        return f"its own side{_mark(pixels)}"
    limits = f"{pixels.least}² … {pixels.most}²"
    if pixels.short_side:
        limits += f", shorter side ≥ {pixels.short_side}"
    return f"{pixels.default[0]}² ({limits}, multiples of {pixels.multiple}){_mark(pixels)}"


def _limit(limit: Limit) -> str:
    text = f"{limit.default:g} ({limit.allowed[0]:g} … {limit.allowed[1]:g}"
    if limit.recommended is not None:
        text += f"; best {limit.recommended[0]:g} … {limit.recommended[1]:g}"
    return f"{text}){_mark(limit)}"


def _lora_weight(profile: Profile) -> str:
    if profile.lora_weight is None:
        return "none"
    return _limit(profile.lora_weight)


def _tags(profile: Profile) -> str:
    tags = profile.quality_tags
    if tags is None:
        return "none"
    return f"{tags.place}: {', '.join(tags.prompt)}{_mark(tags)}"


def _sampler(profile: Profile) -> str:
    sampler = profile.sampler
    only = " only" if sampler.allowed == (sampler.default,) else ""
    return f"`{sampler.default}`{only}{_mark(sampler)}"


def _mark(fact: Fact) -> str:
    return " ᵒ" if fact.mark == "official" else " ᶜ"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    # A bar in a text would end its cell.
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
