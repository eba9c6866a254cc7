"""Claim: on the same logs `bottega doctor training` is behind none of three public training doctors on any cause, ahead
over all, and accuses at most 1 % of healthy runs.

python benchmarks/training_doctors.py [--full] [--json] [--peers VENV] [--leave-out PEER] [--draws N] [--healthy N]
    [--seed WORD]

The peers are no dependency of bottega. Install them into an environment of their own:

    python -m venv .venv-peers
    .venv-peers/bin/pip install runmedic==0.1.1 trainproof==0.22.0 training-doctor==0.1.0

One that is absent has no column, and the benchmark says so; without any, only the false alarms have a bar.

The logs are built in `common/sick_logs.py`: each cause in 20 calm and 20 noisy draws, and 500 healthy diffusion-like
runs, all with learning rate, gradient norm, seconds a step, seconds of waiting for data, memory and validations. A
doctor is right about a log if it names the cause by one of the names in `NAMES`. What accuses healthy runs as well
tells nothing: a doctor's score on a cause is its share of right answers less the share of healthy runs that it accuses
by the same names. A peer accuses from a warning, WARN or FAIL, or a confidence of one half on; bottega from a warning
on. A plateau is no fault, so bottega's word for it counts as right without being an accusation.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.bench import Arguments, conclude, say, start, verdict
from common.sick_logs import CAUSES, healthy

from bottega.doctor import examine
from bottega.runtime.findings import SEVERITIES, Severity
from bottega.runtime.seeds import numpy_rng

OURS = "bottega"
DOCTORS = (OURS, "runmedic", "trainproof", "training-doctor")
CALM, NOISY = "calm", "noisy"
FALSE_ALARMS = 0.01

_SPIKE = {"runmedic": {"loss_spikes"}, "trainproof": {"TP-DIVERGE"}, "training-doctor": {"lr_too_high"}}
_FLAT = {
    "runmedic": {"no_learning"},
    "trainproof": {"TP-DEAD-RUN", "TP-FLAT"},
    "training-doctor": {"lr_too_low", "plateau"},
}
_RISE = {
    OURS: {"diverging"},
    "runmedic": {"divergence"},
    "trainproof": {"TP-DIVERGE"},
    "training-doctor": {"lr_too_high"},
}
_WAVES = {
    OURS: {"oscillating"},
    "runmedic": {"loss_spikes", "divergence"},
    "trainproof": {"TP-DIVERGE", "TP-DEAD-RUN"},
    "training-doctor": {"lr_too_high"},
}
_GRADIENT = {
    OURS: {"gradient leaps"},
    "runmedic": {"grad_spikes"},
    "trainproof": {"TP-GRAD-SPIKE"},
    "training-doctor": {"gradient_instability"},
}
_NAN = {
    OURS: {"not finite"},
    "runmedic": {"non_finite"},
    "trainproof": {"TP-NAN", "TP-NAN-GRAD", "TP-ZERO-LOSS-ONSET"},
    "training-doctor": {"lr_too_high", "gradient_instability"},
}
_SLOW = {OURS: {"slowed down"}, "runmedic": {"slow_steps", "slowdown"}, "trainproof": {"TP-STEP-CLIFF"}}

NAMES: Mapping[str, Mapping[str, set[str]]] = {
    "flat from the start": {OURS: {"flat throughout"}, **_FLAT},
    "late plateau": {OURS: {"plateaued"}, **_FLAT},
    "oscillating, sine": _WAVES,
    "oscillating, sharp": _WAVES,
    "diverging late": _RISE,
    "blown up at once": _RISE,
    "NaN to the end": _NAN,
    "learning rate 0": {
        OURS: {"learning rate zero"},
        "runmedic": {"no_learning"},
        "trainproof": {"TP-ZERO-LR"},
        "training-doctor": {"lr_too_low"},
    },
    "learning rate 0 from mid-run": {
        OURS: {"learning rate zero"},
        "runmedic": {"no_learning"},
        "trainproof": {"TP-ZERO-LR-PARTIAL", "TP-ZERO-LR"},
        "training-doctor": {"lr_too_low"},
    },
    "spikes, recovered": {OURS: {"spiked"}, **_SPIKE},
    "overfitting": {
        OURS: {"overfitting"},
        "runmedic": {"overfitting"},
        "trainproof": {"TP-OVERFIT"},
        "training-doctor": {"overfitting"},
    },
    "resumed with a jump": {**_RISE, OURS: {"resumed with a jump"}},
    "gradient leaps": _GRADIENT,
    "gradient grows": _GRADIENT,
    "gradient NaN": {
        OURS: {"gradient not finite"},
        "runmedic": {"non_finite"},
        "trainproof": {"TP-NAN-GRAD"},
        "training-doctor": {"gradient_instability"},
    },
    "loss 0, gradient NaN": _NAN,
    "no gradient": {
        OURS: {"no gradient"},
        "runmedic": {"no_learning"},
        "trainproof": {"TP-ZERO-GRAD"},
        "training-doctor": {"gradient_instability"},
    },
    "frozen": {OURS: {"constant"}, **_FLAT},
    "loss 0 to the end": {OURS: {"constant"}, "trainproof": {"TP-ZERO-LOSS-ONSET", "TP-ZERO-LOSS"}},
    "waiting for data": {OURS: {"waits for data"}, "runmedic": {"input_bound"}, "trainproof": {"TP-LOADER-BOUND"}},
    "slower at once": _SLOW,
    "slower and slower": _SLOW,
    "slow steps now and then": {OURS: {"slow steps"}, "runmedic": {"slow_steps"}, "trainproof": {"TP-STEP-CLIFF"}},
    "memory grows": {OURS: {"memory grows"}, "runmedic": {"memory_growth"}},
}
"""By which of a doctor's names a cause counts as found; those of the peers are taken generously."""


@dataclass(frozen=True)
class Named:
    """What the doctors said of one log. names: all, by doctor. alarms: those of them that accuse."""

    names: Mapping[str, set[str]]
    alarms: Mapping[str, set[str]]


class Peers:
    """The peers, in a process of their own environment. versions: of those that are installed."""

    def __init__(self, environment: Path, leave_out: Sequence[str]) -> None:
        python = environment / "bin/python"
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        if not python.is_file():
            return
        script = str(Path(__file__).parent / "common/peer_doctors.py")
        self._process = start(
            [str(python), script, *leave_out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.versions = json.loads(self._line())

    def ask(self, path: Path) -> dict[str, set[str]]:
        """By what names each of them accuses a log."""
        if not self.versions or self._process is None or self._process.stdin is None:
            return {}
        print(path, file=self._process.stdin, flush=True)
        return {name: set(found) for name, found in json.loads(self._line()).items()}

    def close(self) -> None:
        """End them."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _line(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise SystemExit("no peer is running")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peers ended with {self._process.wait()}; their last words are above")
        return line


def asked_of_all(path: Path, peers: Peers) -> Named:
    """All doctors on one log."""
    found = {finding.name for finding in examine(path).findings}
    accusing = {name for name in found if SEVERITIES[name] >= Severity.WARNING}
    said = peers.ask(path)
    return Named({OURS: found, **said}, {OURS: accusing, **said})


def of_cause(cause: str, kind: str, draws: int, seed: str, path: Path, peers: Peers) -> Iterator[Named]:
    """The draws of one cause."""
    for draw in range(draws):
        rng = numpy_rng(seed, cause, kind, draw)
        log = healthy(rng, 0.5 if kind == NOISY else rng.uniform(0.03, 0.12))
        CAUSES[cause](log)
        log.write(path)
        yield asked_of_all(path, peers)


def of_healthy(count: int, seed: str, path: Path, peers: Peers) -> list[Named]:
    """Healthy runs, from calm to noisy, short to long."""
    found = []
    for draw in range(count):
        rng = numpy_rng(seed, "healthy", draw)
        healthy(rng, rng.uniform(0.03, 0.7), low=250, high=900).write(path)
        found.append(asked_of_all(path, peers))
    return found


def share_accused(logs: Sequence[Named], doctor: str, names: set[str] | None = None) -> float:
    """The share of healthy runs that a doctor accuses; of these names, or of any."""
    accused = 0
    for log in logs:
        alarms = log.alarms[doctor]
        accused += bool(alarms if names is None else alarms & names)
    return accused / len(logs)


def main() -> int:
    """Run the benchmark; the exit code."""
    arguments = Arguments(__doc__)
    arguments.add_size("--draws", short=2, full=20, help="calm and noisy logs of each cause")
    arguments.add_size("--healthy", short=40, full=500, help="healthy logs")
    arguments.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="the environment of the peers")
    arguments.add_argument(
        "--leave-out", nargs="*", default=[], metavar="PEER", help="training-doctor takes 1.5 s a log, all others 0.1 s"
    )
    arguments.add_argument("--seed", default="training doctors", help="another word gives other logs")
    asked = arguments.parse()
    peers = Peers(asked.peers, asked.leave_out)
    doctors = [doctor for doctor in DOCTORS if doctor == OURS or doctor in peers.versions]
    for absent in sorted(set(DOCTORS) - set(doctors)):
        why = "left out as asked" if absent in asked.leave_out else f"not installed in {asked.peers}"
        say(f"{absent} is {why}: it has no column")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        well = of_healthy(asked.healthy, asked.seed, path, peers)
        say(f"{asked.healthy} healthy logs")
        right: dict[str, dict[str, dict[str, int]]] = {}
        for cause in CAUSES:
            right[cause] = {}
            for kind in (CALM, NOISY):
                told = list(of_cause(cause, kind, asked.draws, asked.seed, path, peers))
                counts = {}
                for doctor in doctors:
                    names = NAMES[cause].get(doctor, set())
                    counts[doctor] = sum(bool(log.names[doctor] & names) for log in told)
                right[cause][kind] = counts
            say(f"{cause}: {right[cause]}")
    peers.close()

    # Scores: right answers less what healthy runs are accused of by the same names.
    scores: dict[str, dict[str, float]] = {}
    for cause, kinds in right.items():
        scores[cause] = {}
        for doctor in doctors:
            share = (kinds[CALM][doctor] + kinds[NOISY][doctor]) / (2 * asked.draws)
            scores[cause][doctor] = share - share_accused(well, doctor, NAMES[cause].get(doctor, set()))
    overall = {doctor: sum(score[doctor] for score in scores.values()) / len(scores) for doctor in doctors}
    alarms = {doctor: share_accused(well, doctor) for doctor in doctors}
    others = [doctor for doctor in doctors if doctor != OURS]
    behind = {}
    for cause, score in scores.items():
        best = max((score[doctor] for doctor in others), default=score[OURS])
        if score[OURS] < best:
            behind[cause] = best - score[OURS]
    is_ahead = all(overall[OURS] > overall[doctor] for doctor in others)
    bars = {"alarms": alarms[OURS] <= FALSE_ALARMS}
    if others:
        bars |= {"not behind": not behind, "ahead": is_ahead}

    result = {
        "versions": peers.versions,
        "draws": asked.draws,
        "healthy": asked.healthy,
        "right": right,
        "scores": scores,
        "overall": overall,
        "false_alarms": alarms,
        "behind": behind,
        "bars": bars,
        "held": all(bars.values()),
    }
    return conclude(asked, result, _table(result, doctors, asked.draws))


def _table(result: Mapping[str, object], doctors: Sequence[str], draws: int) -> Iterator[str]:
    """Right answers, calm/noisy, with the score, for each cause and doctor."""
    right, scores, overall, alarms = (result[name] for name in ("right", "scores", "overall", "false_alarms"))
    bars, behind = result["bars"], result["behind"]
    assert isinstance(right, dict) and isinstance(scores, dict) and isinstance(overall, dict)
    assert isinstance(alarms, dict) and isinstance(bars, dict) and isinstance(behind, dict)
    yield f"right of {draws} calm / {draws} noisy logs, and the score"
    yield f"{'cause':30}" + "".join(f"{doctor:>18}" for doctor in doctors)
    for cause, kinds in right.items():
        cells = [f"{kinds[CALM][d]}/{kinds[NOISY][d]} {scores[cause][d]:+.2f}" for d in doctors]
        yield f"{cause:30}" + "".join(f"{cell:>18}" for cell in cells)
    yield f"{'mean score':30}" + "".join(f"{overall[doctor]:>18.3f}" for doctor in doctors)
    yield f"{'healthy logs accused':30}" + "".join(f"{alarms[doctor]:>18.1%}" for doctor in doctors)
    for cause, by in behind.items():
        yield f"behind on {cause} by {by:.2f}"
    for name, held in bars.items():
        yield f"{name}: {verdict(held)}"


if __name__ == "__main__":
    sys.exit(main())
