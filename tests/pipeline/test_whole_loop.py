"""The whole loop, every stage a real process, on models of the miniature's architecture that have learned nothing.

The teacher is the oracle, which returns the drawn truth: what an untrained one paints is rightly rejected.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from bottega.student.export import read_header

STAGES = ["world", "data", "pairs", "truth", "quality", "teacher", "features", "student", "evaluation"]
ROLES = ["sdxl", "ip_adapter", "pixart", "clip", "style_classifier", "structure_encoder", "scene_reader"]


def test_one_command_walks_the_loop_and_a_second_finds_it_done(
    bottega: Callable[..., CompletedProcess[str]], recipe: Path, tiny_models: Path
) -> None:
    models = [f"--set=models.{role}={tiny_models / role}" for role in ROLES]
    done = bottega("run", str(recipe), "--json", *models, timeout=900)
    assert done.returncode == 0, done.stderr

    run = recipe.parent / "runs" / "tiny"
    summary = json.loads(done.stdout)
    assert list(summary["stages"]) == STAGES
    header = read_header(run / "training" / "adapter.safetensors")
    assert list(header["sources"]) == ["oracle"], "a student of drawn truths must say so"
    assert len(list((run / "teacher" / "images").glob("*.png"))) == 6 + 2
    assert "tiny" in (run / "report.html").read_text()
    provenance = json.loads((run / "provenance.json").read_text())
    assert set(provenance["weights"]) == set(ROLES)
    assert {"threads", "instruction_set"} <= json.loads((run / "training" / "stage.json").read_text())["machine"].keys()
    for path in run.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(recipe.parent).encode() not in data, path
            assert str(tiny_models).encode() not in data, path

    began = _cpu_seconds()
    again = bottega("run", str(run), *models)
    assert again.returncode == 0, again.stderr
    assert _cpu_seconds() - began < 5, "nothing was left to do: far under 15 s, whatever else the machine does"
    assert json.loads((run / "summary.json").read_text()) == summary

    moved = recipe.parent / "moved"
    run.rename(moved)
    assert bottega("report", str(moved)).returncode == 0


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
