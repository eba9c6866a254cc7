"""A whole ablation on a small world: equal to trainings alone, and to itself after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega.ablation.plan import AblationPlan
from bottega.ablation.stage import Ground, run
from bottega.evaluation.config import EvaluationConfig
from bottega.runtime import trust
from bottega.runtime.errors import FingerprintError
from bottega.runtime.files import read_json
from bottega.student import stage as student
from bottega.student.config import StudentConfig

EVALUATION = EvaluationConfig(limit=4, draws=200, batch_size=2)
KILLED = """
import sys
from pathlib import Path
from bottega.ablation.plan import AblationPlan, budgeted
from bottega.ablation.stage import Ground, run
from bottega.ablation.variants import one_factor
from bottega.evaluation.config import EvaluationConfig
from bottega.models.config import ModelsConfig
from bottega.student.config import StudentConfig

base, evaluation, models, features, pairs, data, output, blocks = sys.argv[1:]
base = StudentConfig.model_validate_json(base)
plan = AblationPlan("one factor", one_factor(base, ["fill50k"], int(blocks)), (0, 1), base, int(blocks))
ground = Ground("small", ModelsConfig.model_validate_json(models), Path(features), Path(pairs), Path(data))
run(plan, EvaluationConfig.model_validate_json(evaluation), Path(output), ground=ground, processes=2)
"""


@pytest.fixture(scope="module")
def whole(plan: AblationPlan, ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation that nobody stopped, in one process."""
    output = tmp_path_factory.mktemp("ablation")
    run(plan, EVALUATION, output, ground=ground, processes=1)
    return output


def adapters(output: Path) -> dict[str, bytes]:
    return {
        path.parent.relative_to(output).as_posix(): path.read_bytes()
        for path in output.glob("trained/*/*/adapter.safetensors")
    }


def test_every_variant_has_a_row_with_every_seed(whole: Path) -> None:
    summary = read_json(whole / "summary.json")
    assert trust.holds(summary)
    assert [row["name"] for row in summary["rows"]] == ["baseline", "fill50k-off"]
    assert summary["pairs"] == 4
    for row in summary["rows"]:
        assert row["status"] == "measured" and row["seeds"] == [0, 1]
        assert row["metrics"]["palette"]["n"] == 4 * 2
        assert all((whole / example["picture"]).is_file() for example in row["examples"])
    assert "palette" in summary["rows"][1]["differences"]
    assert summary["controls"].keys() == {"base", "content", "style", "colours"}
    assert list(trust.faults(whole, trust.Depth.WHOLE)) == []
    assert (whole / "table.md").read_text().count("| fill50k-off |") == 2


def test_a_training_of_the_ablation_equals_the_same_recipe_trained_alone(
    whole: Path, ground: Ground, tmp_path: Path
) -> None:
    folder = whole / "trained" / "baseline" / "seed1"
    alone = StudentConfig.model_validate(read_json(folder / "student.json"))
    assert alone.seed == 1
    student.run(alone, tmp_path, features_dir=ground.features, models=ground.models)
    assert (tmp_path / "adapter.safetensors").read_bytes() == (folder / "adapter.safetensors").read_bytes()


def test_killed_and_resumed_in_more_processes_it_is_the_same(
    whole: Path, plan: AblationPlan, ground: Ground, tmp_path: Path
) -> None:
    words = [plan.base.model_dump_json(), EVALUATION.model_dump_json(), ground.models.model_dump_json()]
    words += [str(ground.features), str(ground.pairs), str(ground.data_root), str(tmp_path), str(plan.blocks)]
    killed = subprocess.Popen([sys.executable, "-c", KILLED, *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("trained/*/*/checkpoints/step_*")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(adapters(tmp_path)) < 4
    time.sleep(1)  # its processes end by themselves
    run(plan, EVALUATION, tmp_path, ground=ground, processes=2)
    assert adapters(tmp_path) == adapters(whole)
    one, other = (read_json(output / "summary.json") for output in (whole, tmp_path))
    for found, expected in zip(other["rows"], one["rows"], strict=True):
        assert found["metrics"] == expected["metrics"]
        assert found["differences"] == expected["differences"]


def test_another_budget_in_the_same_folder_is_refused_by_name(whole: Path, plan: AblationPlan, ground: Ground) -> None:
    more_pairs = EVALUATION.model_copy(update={"limit": 6})
    with pytest.raises(FingerprintError, match="4 -> 6"):
        run(plan, more_pairs, whole, ground=ground, processes=1)
