"""The exception tree is drawn completely, and every leaf has its exit code."""

from __future__ import annotations

import re
import signal

import pytest

from bottega.runtime import errors


def _all_errors() -> list[type[errors.BottegaError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.BottegaError)]


def test_the_docstring_draws_every_error_under_its_parent() -> None:
    tree = re.findall(r"^    ( *)([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    drawn = {name: len(indent) // 2 for indent, name in tree}
    assert drawn == {kind.__name__: len(kind.__mro__) - len(errors.BottegaError.__mro__) for kind in _all_errors()}


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda kind: kind.__name__)
def test_wrong_requests_exit_with_2_and_failed_work_with_1(kind: type[errors.BottegaError]) -> None:
    if kind is not errors.Interrupted:
        otherwise = 75 if kind is errors.StartAfresh else 1
        assert kind("x").exit_code == (2 if issubclass(kind, errors.RequestError) else otherwise)


def test_interruption_exits_with_128_plus_the_signal() -> None:
    assert errors.Interrupted(signal.SIGINT).exit_code == 130
    assert errors.Interrupted(signal.SIGTERM).exit_code == 143
