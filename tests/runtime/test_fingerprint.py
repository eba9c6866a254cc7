"""What a run depends on is recorded, compared and named, field by field."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from bottega.runtime.config import Added, Config, Formerly, Resumable, parse
from bottega.runtime.errors import FingerprintError, RecipeError
from bottega.runtime.fingerprint import (
    bound_settings,
    changes,
    divide,
    fingerprint,
    flatten,
    require_unchanged,
    resumable_settings,
)


class Loop(Config):
    steps: Annotated[int, Resumable("longer")] = 5
    seed: int = 0
    threads: Annotated[int | None, Added(before=None), Resumable("roundings")] = None


class Sampling(Config):
    eta: float = 0.0


class Run(Config):
    loop: Loop = Loop()
    microbatches: Annotated[int, Formerly("parts"), Field(ge=1)] = 1
    sampling: Annotated[Sampling, Resumable("no effect", within="stage")] = Sampling()
    workers: Annotated[int, Resumable("no effect", within="run")] = 0
    optional: Loop | None = None


def test_bound_settings_are_those_that_no_field_lets_change() -> None:
    assert bound_settings(Run(), "stage") == {"loop": {"seed": 0}, "parts": 1, "workers": 0, "optional": None}
    assert bound_settings(Run(), "run") == {
        "loop": {"seed": 0}, "parts": 1, "sampling": {"eta": 0.0}, "optional": None,
    }  # fmt: skip


def test_resumable_settings_come_with_their_effects_and_a_whole_section_is_one_of_them() -> None:
    shared = {"r.loop.steps": "longer", "r.loop.threads": "roundings"}
    assert resumable_settings(Run(), "stage", "r") == {**shared, "r.sampling": "no effect"}
    assert resumable_settings(Run(), "run", "r") == {**shared, "r.workers": "no effect"}
    assert "optional.steps" in resumable_settings(Run(optional=Loop()), "run")


def test_both_kinds_together_are_all_settings() -> None:
    settings = flatten(Run(optional=Loop()).settings())
    bound, free = divide(settings, resumable_settings(Run(optional=Loop()), "run"))
    assert bound | free == settings and not bound.keys() & free.keys()
    assert bound == flatten(bound_settings(Run(optional=Loop()), "run"))


def test_a_renamed_field_is_read_under_both_names_and_recorded_under_the_former_one() -> None:
    assert parse(Run, {"parts": 2}, "r.yaml") == parse(Run, {"microbatches": 2}, "r.yaml")
    assert Run(microbatches=2).settings()["parts"] == 2 and "parts" not in Run().model_dump()
    with pytest.raises(RecipeError, match="parts is the former name of microbatches, and both are given"):
        parse(Run, {"parts": 2, "microbatches": 2}, "r.yaml")
    with pytest.raises(RecipeError, match="microbatches = 0 is not allowed"):
        parse(Run, {"parts": 0}, "r.yaml")


def test_settings_are_flat_names() -> None:
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "empty": {}}
    assert flatten(nested, "x") == {"x.a.b": 1, "x.a.c.d": [1, 2], "x.e": None, "x.empty": {}}
    assert flatten(None, "world") == {"world": None}


def test_free_settings_are_kept_apart_from_bound_ones() -> None:
    settings = {"student.steps": 5, "student.seed": 1, "data.coco.limits.workers": 2}
    bound, free = divide(settings, {"student.steps", "data.coco.limits"})
    assert bound == {"student.seed": 1}
    assert free == {"student.steps": 5, "data.coco.limits.workers": 2}


def test_a_section_of_the_first_level_holds_its_own_settings_and_no_others() -> None:
    settings = {"sampling.eta": 0.5, "sampling": None, "samplings": 1, "loop.sampling": 2}
    bound, free = divide(settings, {"sampling"})
    assert free == {"sampling.eta": 0.5, "sampling": None}
    assert bound == {"samplings": 1, "loop.sampling": 2}


def test_a_fingerprint_depends_on_values_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_changes_are_named_with_both_values() -> None:
    found = changes({"a": 1, "b": 2, "gone": 3}, {"a": 1, "b": 5, "new": 4})
    assert [str(change) for change in found] == [
        "b: 2 -> 5", "gone: 3 -> (absent)", "new: (absent) -> 4",
    ]  # fmt: skip


def test_what_both_records_have_is_named_first_and_absent_is_the_same_as_empty() -> None:
    old = {"loop": {"kind": "a", "a_width": 1}, "folder": {}, "sizes": [1, 2]}
    new = {"loop": {"kind": "b", "z_width": 2}, "folder": None, "sizes": (1, 2)}
    found = changes(old, new, {"loop": "training"})
    assert [change.name for change in found] == ["training.kind", "training.a_width", "training.z_width"]


def test_work_that_was_begun_with_another_setting_is_refused_by_its_name() -> None:
    require_unchanged({"a": {"b": 1}}, {"a": {"b": 1}}, where="in the checkpoint", cure="set it back")
    with pytest.raises(FingerprintError, match=r"^a\.b was 1 in the checkpoint and is 2 now; set it back$"):
        require_unchanged({"a": {"b": 1}}, {"a": {"b": 2}}, where="in the checkpoint", cure="set it back")


def test_a_setting_that_was_marked_resumable_later_does_not_refuse_work_begun_before() -> None:
    begun = {"loop": {"steps": 5, "seed": 0}}
    now = bound_settings(Run(), "run")
    assert "steps" not in now["loop"]
    marked = resumable_settings(Run(), "run")
    require_unchanged(begun, {"loop": now["loop"]}, where="in the checkpoint", cure="set it back", resumable=marked)
    with pytest.raises(FingerprintError, match=r"^loop\.seed was 1"):
        require_unchanged(
            {"loop": {"steps": 5, "seed": 1}}, {"loop": now["loop"]}, where="then", cure="x", resumable=marked
        )
