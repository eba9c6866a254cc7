"""What each check of the judge lets through of good and known-bad pictures, from `quality/calibration.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.report.format import Number, as_text, percent


@dataclass(frozen=True)
class CalibrationRecord:
    """The table in that file: by kind of picture, the share that passes each check and the share of each grade."""

    pass_rates: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    grades: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CalibrationFile:
    """The file. table: None where nothing was calibrated."""

    table: CalibrationRecord | None = None


@dataclass(frozen=True)
class CheckCell:
    """Percent of the pictures that pass; `rejected` for a tint."""

    value: str
    rejected: int


@dataclass(frozen=True)
class KindRow:
    """A kind of picture, `n` of them. grades: percent of A, B and C; `c` the last for a tint."""

    kind: str
    good: bool
    n: int
    grades: list[str]
    c: int
    checks: list[CheckCell]


@dataclass(frozen=True)
class CalibrationTable:
    """What the page shows of a calibration."""

    checks: list[str]
    rows: list[KindRow]
    limits: dict[str, str]
    warnings: tuple[str, ...]


def lay_out(file: CalibrationFile | None) -> CalibrationTable | None:
    """Everything that the page shows of a calibration; None where there is none."""
    if file is None or file.table is None:
        return None
    record = file.table
    checks = list(next(iter(record.pass_rates.values()), {}))
    rows = []
    for kind, rates in record.pass_rates.items():
        grades = record.grades.get(kind, {})
        cells = [_check_cell(rates.get(check)) for check in checks]
        rows.append(
            KindRow(
                kind=kind,
                good=kind == "good",
                n=record.counts.get(kind, 0),
                grades=[percent(grades.get(letter)) for letter in "ABC"],
                c=round(100 * (grades.get("C") or 0)),
                checks=cells,
            )
        )
    return CalibrationTable(
        checks=[check.replace("_", " ") for check in checks],
        rows=rows,
        limits={name: as_text(value) for name, value in record.thresholds.items()},
        warnings=record.warnings,
    )


def _check_cell(pass_rate: float | None) -> CheckCell:
    return CheckCell(percent(pass_rate), rejected=round(100 * (1 - (pass_rate or 0))))
