"""What finished work depends on: settings as flat `section.key` names, their hash, and what changed in them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from bottega.runtime.files import sha256_json


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested mappings as one flat mapping: `{"a": {"b": 1}}` with prefix `x` is `{"x.a.b": 1}`; lists stay whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def divide(settings: Mapping[str, Any], free: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(bound, free) settings: those that finished work depends on, and those that may differ when it is continued.

    Args:
        free: patterns of flat names, for instance `student.steps` or `data.*.workers`.
    """
    bound: dict[str, Any] = {}
    loose: dict[str, Any] = {}
    for name, value in settings.items():
        (loose if any(fnmatchcase(name, pattern) for pattern in free) else bound)[name] = value
    return bound, loose


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings, whatever their order."""
    return sha256_json(dict(settings))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One text for each setting that differs, such as `teacher.strength: 0.4 -> 0.35`."""
    absent = "(absent)"
    names = [name for name in {**old, **new} if old.get(name, absent) != new.get(name, absent)]
    return [f"{name}: {_text(old.get(name, absent))} -> {_text(new.get(name, absent))}" for name in names]


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
