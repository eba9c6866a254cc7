"""What three public training doctors say of logs: run by the Python of the environment that holds them.

Arguments are doctors to leave out. Reads paths of CSV files from stdin, one a line. Prints one JSON object first, the
doctors that are installed with their versions, then one a log: the names of what each accuses the run of. It imports
nothing else, since nothing else is there.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

CONFIDENT = 0.5
"""training-doctor states a confidence with each diagnosis: below this it is no accusation."""


def runmedic(path: str) -> list[str]:
    """Checks with a warning or worse."""
    from runmedic import loaders, roles
    from runmedic.checks import run_checks

    found = set()
    for run in loaders.load(path):
        for finding in run_checks(run, roles.detect(run, {})):
            if finding.severity in ("critical", "warning"):
                found.add(finding.check)
    return sorted(found)


def trainproof(path: str) -> list[str]:
    """Findings with WARN or FAIL."""
    from trainproof.epoch import check_epoch

    return sorted({finding["id"] for finding in check_epoch(path)["findings"] if finding["level"] in ("WARN", "FAIL")})


def training_doctor(path: str) -> list[str]:
    """Detectors that are confident at some step."""
    from training_doctor import Doctor

    diagnoses = Doctor().load(path).analyze()
    return sorted({one.detector_name for one in diagnoses if one.confidence >= CONFIDENT})


DOCTORS: dict[str, Callable[[str], list[str]]] = {
    "runmedic": runmedic,
    "trainproof": trainproof,
    "training-doctor": training_doctor,
}


def main() -> None:
    """As the module's docstring says."""
    installed = {}
    for name in DOCTORS.keys() - set(sys.argv[1:]):
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    print(json.dumps(installed), flush=True)
    for line in sys.stdin:
        said = {}
        for name in installed:
            with contextlib.redirect_stdout(io.StringIO()):
                said[name] = DOCTORS[name](line.strip())
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
