"""What finished work depends on: the settings of a configuration, their hash, and what changed in them.

The settings of a `Config` fall in two kinds. *Bound* settings decide the result: they are recorded with the work, and
continuing it with other ones is refused by name. *Resumable* settings may differ; each says so on its field,
`Annotated[int, Resumable("what changing it does")]`, and nowhere else.

Recorded names are those of `Config.settings()`: a field that was renamed is recorded under its former name, and a
field that was added is left out while it stands at what was done before it. So what an earlier version recorded still
compares equal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from bottega.runtime.config import Config, Resumable, Scope, recorded_name
from bottega.runtime.errors import FingerprintError
from bottega.runtime.files import sha256_json

Settings = Mapping[str, object]
"""Settings by name, flat or nested, as JSON has them: they are compared, hashed and recorded, never computed with."""


def bound_settings(config: Config, within: Scope) -> dict[str, object]:
    """The settings that finished work depends on, as nested JSON.

    Args:
        config: a configuration; its sections are looked into.
        within: what is continued, see `Resumable`.
    """
    settings = config.settings()
    bound: dict[str, object] = {}
    for name, field in type(config).model_fields.items():
        recorded = recorded_name(name, field)
        if recorded not in settings or _policy(field, within) is not None:
            continue
        value = getattr(config, name)
        bound[recorded] = bound_settings(value, within) if isinstance(value, Config) else settings[recorded]
    return bound


def resumable_settings(config: Config, within: Scope, prefix: str = "") -> dict[str, str]:
    """The settings that may differ when work is continued, each with what changing it does.

    Args:
        config: a configuration; its sections are looked into.
        within: what is continued, see `Resumable`.
        prefix: what to put before the names, such as `student`.

    Returns:
        Recorded name, such as `student.loop.steps`, to effect. A section that may differ as a whole is one entry.
    """
    found: dict[str, str] = {}
    for name, field in type(config).model_fields.items():
        path = _joined(prefix, recorded_name(name, field))
        policy = _policy(field, within)
        value = getattr(config, name)
        if policy is not None:
            found[path] = policy.effect
        elif isinstance(value, Config):
            found |= resumable_settings(value, within, path)
    return found


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one flat mapping: `{"a": {"b": 1}}` with prefix `x` is `{"x.a.b": 1}`; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat.update(flatten(item, _joined(prefix, str(key))))
    return flat


def divide(settings: Settings, resumable: Collection[str]) -> tuple[dict[str, object], dict[str, object]]:
    """(bound, resumable) of flat settings.

    Args:
        settings: by flat names.
        resumable: names of settings and of whole sections, as `resumable_settings` gives them.
    """
    bound: dict[str, object] = {}
    free: dict[str, object] = {}
    for name, value in settings.items():
        if _is_within(name, resumable):
            free[name] = value
        else:
            bound[name] = value
    return bound, free


def fingerprint(settings: Settings) -> str:
    """SHA-256 of settings, whatever their order."""
    return sha256_json(dict(settings))


@dataclass(frozen=True)
class Change:
    """A setting that differs between two records; None where a record does not have it."""

    name: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.before)} -> {_short(self.after)}"


def changes(old: Settings, new: Settings, names: Mapping[str, str] | None = None) -> list[Change]:
    """The settings that differ, in the order in which they explain themselves best.

    Settings that both records have come first: a changed choice says more than the settings that it brings with it or
    takes away. A setting that is absent equals one that is empty: a section that was left out is recorded either way.

    Args:
        old, new: settings, flat or nested.
        names: what the first part of a name is called for people, such as `{"loop": "training"}`.
    """
    before = _named(flatten(old), names or {})
    after = _named(flatten(new), names or {})
    in_both = before.keys() & after.keys()
    in_one = before.keys() ^ after.keys()
    ordered = [*sorted(in_both), *sorted(in_one)]
    found = [Change(name, before.get(name), after.get(name)) for name in ordered]
    return [change for change in found if _comparable(change.before) != _comparable(change.after)]


def without_resumable(found: Iterable[Change], resumable: Collection[str]) -> list[Change]:
    """The changes that matter: not those of settings that may differ."""
    # Bound settings hold no resumable one, but a record may: a field that was marked `Resumable` after the work had
    # been begun is still in it, and must not refuse that work.
    return [change for change in found if not _is_within(change.name, resumable)]


def recorded_then(now: Settings, recorded: Settings, later: Collection[str]) -> dict[str, object]:
    """Settings without the sections that a record lacks because the version that wrote it knew none.

    Args:
        now: today's.
        recorded: those that work was begun with.
        later: names, such as `configurations`, that came after there were records.
    """
    return {name: value for name, value in now.items() if name in recorded or name not in later}


def require_unchanged(
    recorded: Settings,
    now: Settings,
    *,
    where: str,
    cure: str,
    names: Mapping[str, str] | None = None,
    resumable: Collection[str] = (),
) -> None:
    """Refuse, by name, to continue work that was begun with other settings.

    Args:
        recorded: the settings that the work was begun with.
        now: those of this command.
        where: completes "x was 1 …", such as `in the checkpoint`.
        cure: what to do.
        names: see `changes`.
        resumable: names that may differ, see `without_resumable`.

    Raises:
        FingerprintError: names the first setting that differs, with both values.
    """
    found = without_resumable(changes(recorded, now, names), resumable)
    if found:
        first = found[0]
        raise FingerprintError(f"{first.name} was {first.before!r} {where} and is {first.after!r} now; {cure}")


def _policy(field: FieldInfo, within: Scope) -> Resumable | None:
    """What the field says of a change, if it may change there."""
    for mark in field.metadata:
        if isinstance(mark, Resumable) and mark.within in (None, within):
            return mark
    return None


def _is_within(name: str, sections: Collection[str]) -> bool:
    """Whether a flat name, or a section that it lies in, is among `sections`."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in sections for length in range(1, len(parts) + 1))


def _named(settings: Settings, names: Mapping[str, str]) -> dict[str, object]:
    """Flat settings with the first part of each name replaced."""
    result: dict[str, object] = {}
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        result[_joined(names.get(first, first), rest)] = value
    return result


def _comparable(value: object) -> object:
    """A value as JSON gives it back, so that one that was recorded equals one that was not."""
    # A section that was left out is recorded as absent or as empty, by version: both mean the same.
    if value == {}:
        return None
    return list(value) if isinstance(value, tuple) else value


def _joined(prefix: str, name: str) -> str:
    return ".".join(part for part in (prefix, name) if part)


def _short(value: object) -> str:
    text = "(absent)" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
