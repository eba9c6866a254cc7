"""A run directory as a run leaves it, made in a second.

Real pictures of the drawn world, the real ledger, log, calibration and summary code; only the networks' scores are
drawn from a generator, since training takes minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottega.data.records import read_pairs
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.grid import Grid
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.stage import summarise
from bottega.miniature.world import painter, render, scene
from bottega.quality.calibration import Calibration, damaged
from bottega.quality.config import Thresholds
from bottega.quality.grading import CHECK_NAMES
from bottega.runtime.files import write_json, write_jsonl, write_png, write_text
from bottega.runtime.provenance import describe
from bottega.runtime.seeds import numpy_rng
from bottega.teacher.ledger import Ledger, TryRow
from bottega.training.log import TrainingLog

STAGES = ("world", "data", "pairs", "truth", "quality", "teacher", "features", "student", "evaluation")
FOLDERS = {"world": "data/raw", "truth": "data/truth", "student": "training"}
CAPTION = "a <b>red</b> circle & a \"ring\" <script>alert('caption')</script>"

Believable = Callable[..., Path]


@pytest.fixture(scope="session")
def believable(tmp_path_factory: pytest.TempPathFactory) -> Believable:
    """`believable(until=…, contents=…, styles=…)` makes a run directory that has come as far as the stage `until`."""

    def make(until: str = "evaluation", contents: int = 6, styles: int = 8, side: int = 64) -> Path:
        directory = tmp_path_factory.mktemp("run")
        return RunMaker(directory, contents, styles, side).up_to(until)

    return make


class RunMaker:
    """Writes what each stage writes, one method a stage."""

    def __init__(self, directory: Path, contents: int, styles: int, side: int) -> None:
        self.directory, self.side = directory, side
        self.train = self._crossed(range(contents), range(styles), "train")
        self.test = self._crossed(range(100, 100 + contents), range(80, 80 + styles), "test")

    def up_to(self, until: str) -> Path:
        write_text(
            self.directory / "recipe.yaml",
            "name: miniature\nseed: 0\nworld: {contents: 6}\ntruth: {seeds: 8}\ndata: {root: null}\n",
        )
        write_json(
            self.directory / "provenance.json",
            {**describe(), "weights": {"pixart": {"sha256": "ab" * 32, "files": {}}}, "stages": {}},
        )
        write_jsonl(self.directory / "pairs/train.jsonl", self.train)
        write_jsonl(self.directory / "pairs/test.jsonl", self.test)
        for number, name in enumerate(STAGES[: STAGES.index(until) + 1]):
            summary = getattr(self, f"_{name}", dict)() or {}
            record = {
                "seconds": 3.7 * (number + 1) ** 1.7,
                "peak_rss_mb": 210.0 + 130 * number,
                "peak_vram_mb": 0.0,
                "summary": summary,
            }
            record["machine"] = (
                {"device": "cpu", "threads": 2, "default_dtype": "float32", "instruction_set": "AVX2"}
                if number > 3
                else {}
            )
            write_json(
                self.directory / FOLDERS.get(name, name) / "stage.json", {"fingerprint": "f" * 64, "size": {}, **record}
            )
        return self.directory

    def _crossed(self, contents: range, styles: range, split: str) -> list[dict[str, Any]]:
        rows = []
        for c in contents:
            for s in styles:
                pair_id = f"c{c}_p{s}"
                rows.append(
                    {
                        "pair_id": pair_id,
                        "content_id": f"c{c}",
                        "content_path": f"coco/images/c{c}.png",
                        "style_id": f"p{s}",
                        "style_path": f"wikiart/images/p{s}.png",
                        "style": painter(s).kind,
                        "caption_index": 0,
                        "seeds": [0, 1],
                        "prompt": CAPTION if c % 3 == 0 else scene(c).caption(0),
                        "split": split,
                    }
                )
        return rows

    def _parts(self, pair: dict[str, Any]) -> tuple[int, int]:
        return int(pair["content_id"][1:]), int(pair["style_id"][1:])

    def _data(self) -> None:
        data = self.directory / "data"
        for pair in (*self.train, *self.test):
            c, s = self._parts(pair)
            for path, picture in ((pair["content_path"], (c, None)), (pair["style_path"], (s + 700, s))):
                if not (data / path).exists():
                    write_png(
                        data / path,
                        render(scene(picture[0]), None if picture[1] is None else painter(picture[1]), size=self.side),
                    )

    def _truth(self) -> None:
        for pair in (*self.train, *self.test):
            c, s = self._parts(pair)
            write_png(
                self.directory / f"data/truth/{pair['pair_id']}_seed0.png", render(scene(c), painter(s), size=self.side)
            )

    def _world(self) -> None:
        (self.directory / "data" / "raw").mkdir(parents=True)

    def _quality(self) -> dict[str, Any]:
        rng = numpy_rng("calibration")
        kinds = (
            "good",
            *damaged(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), 0),
            "other content",
            "other style",
        )
        rates = {
            k: {
                c: float(rng.uniform(0.985, 1) if k == "good" else rng.choice([1.0, rng.uniform(0, 1)]))
                for c in CHECK_NAMES
            }
            for k in kinds
        }
        grades = {
            k: {"A": 0.81, "B": 0.18, "C": 0.01} if k == "good" else {"A": 0.0, "B": 0.04, "C": 0.96} for k in kinds
        }
        table = Calibration(
            Thresholds(), rates, grades, dict.fromkeys(kinds, 256), ["check finite passes every known-bad picture"]
        )
        write_json(
            self.directory / "quality/calibration.json", {"request": "", "summary": {}, "table": table.as_json()}
        )
        write_json(self.directory / "quality/thresholds.json", Thresholds().model_dump())
        return {"source": "calibrated"}

    def _teacher(self) -> dict[str, Any]:
        with Ledger(self.directory / "teacher/ledger.sqlite") as ledger:
            for pair in self.train:
                ledger.commit(self._tries(pair))
        return {"warnings": ["checks that rejected none of 48 pictures: black"]}

    def _tries(self, pair: dict[str, Any]) -> list[TryRow]:
        rng = numpy_rng("tries", pair["pair_id"])
        rows: list[TryRow] = []
        for rung in ("protocol", "structure 1", "structure 2"):
            letter = str(rng.choice(["A", "B", "C"], p=[0.55, 0.2, 0.25]))
            broken = pair["pair_id"] == "c1_p1"
            name = (
                f"images/{pair['pair_id']}_seed0.png"
                if not rows
                else f"rejected/{pair['pair_id']}_seed0_try{len(rows)}.png"
            )
            if not broken:
                write_png(self.directory / "teacher" / name, self._mixed(pair, 0.85 if letter == "A" else 0.3))
            reasons = {
                "A": [],
                "B": ["content_sim: 0.320, an A has at least 0.340"],
                "C": ["edge_64: coarse structure lost, edge similarity at 64 px 0.110, at least 0.200"],
            }
            rows.append(
                TryRow(
                    f"{pair['pair_id']}_seed0",
                    pair["pair_id"],
                    pair["content_id"],
                    pair["style_id"],
                    0,
                    len(rows),
                    rung,
                    "broken" if broken else "ok",
                    "C" if broken else letter,
                    0.0,
                    ["missing: no such file <content>"] if broken else reasons[letter],
                    self._raw_scores(rng),
                    {},
                    7,
                    pair["prompt"],
                    pair["style"],
                    "train",
                    pair["content_path"],
                    pair["style_path"],
                    "0" * 64,
                    "0" * 64,
                    None if broken else name,
                    None,
                    0.4,
                    "2026-01-01T00:00:00",
                    "f" * 64,
                )
            )
            if letter != "C" or broken:
                break
        return rows

    @staticmethod
    def _raw_scores(rng: np.random.Generator) -> dict[str, float]:
        """Some pictures lack a score, as a flat content or a run without CLIP leaves them."""
        scores = {"edge_64": float(rng.uniform(0.2, 0.6)), "style_gain": float(rng.uniform(0, 0.3))}
        return {name: value for name, value in scores.items() if rng.random() < 0.8}

    def _mixed(self, pair: dict[str, Any], share: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
        c, s = self._parts(pair)
        plain, painted = render(scene(c), None, size=self.side), render(scene(c), painter(s), 3, size=self.side)
        return np.asarray(plain * (1 - share) + painted * share, np.uint8)

    def _student(self) -> dict[str, Any]:
        rng = numpy_rng("training")
        with TrainingLog(self.directory / "training", 0) as log:
            for step in range(1, 601):
                row: dict[str, Any] = {
                    "step": step,
                    "loss": 0.3 + 1 / (1 + step / 80) + 0.1 * rng.standard_normal(),
                    "learning_rate": 1e-3,
                    "seconds": 0.2,
                }
                row |= {
                    "loss_main": row["loss"] * 1.1,
                    "loss_fill50k": row["loss"] * 0.6,
                    **{f"gate_{k}": 0.1 + step / (900 + 200 * k) for k in range(8, 12)},
                }
                if step % 60 == 0:
                    gain = 0.2 * step / 600
                    row |= {
                        "val_gain": gain,
                        "val_gain_low": gain - 0.03,
                        "val_gain_high": gain + 0.03,
                        "val_swap": gain * 0.6,
                        **{f"val_gain_t{t}": gain * (1 + t / 900) for t in (62, 187, 312, 437)},
                    }
                log.row(row)
        for step in (60, 300, 600):
            drawn = np.full((2 * self.side, 4 * self.side, 3), step // 3, np.uint8)
            write_png(self.directory / f"training/samples/step_{step:08d}.png", drawn)
        return {}

    def _evaluation(self) -> dict[str, Any]:
        home = self.directory / "evaluation"
        home.mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(self.test):
            write_png(home / f"pictures/student/{pair['pair_id']}.png", self._mixed(pair, 0.8))
            if number % 2 == 0:
                write_png(home / f"pictures/teacher/{pair['pair_id']}.png", self._mixed(pair, 0.9))
        config = EvaluationConfig(draws=200, examples=3)
        write_jsonl(home / "scores.jsonl", self._scores())
        absent = {
            "structure_encoder": "needs a structure encoder (models.structure_encoder)",
            "base": "no weights at <hub>",
        }
        summary = summarise(config, home, Grid.of(read_pairs(self.directory / "pairs/test.jsonl")), absent)
        summary["broken"] = {"c101_p80": "truncated: the file ends before the picture does"}
        write_json(home / "summary.json", summary)
        return summary

    def _scores(self) -> Iterator[dict[str, Any]]:
        level = {
            "student": 0.6,
            "teacher": 0.75,
            "content": 0.0,
            "style": 0.5,
            "colours": 0.2,
            "blurred": 0.4,
            "truth": 1.0,
        }
        for row, skill in level.items():
            for pair in self.test:
                rng = numpy_rng("score", row, pair["pair_id"])
                own, other = 100.0 * (rng.random() < 0.1 + 0.85 * skill), 100.0 * (rng.random() < 0.12)
                base = float(np.exp(rng.normal(0, 0.15)))
                values = {
                    "kind_own": own,
                    "kind_swapped": other,
                    "kind_gain": own - other,
                    "palette": (22 - 15 * skill) * base,
                    "text": 24 + rng.normal(),
                    "objects_found": 100.0 if row != "style" else 10.0,
                    "objects_iou": 80 + rng.normal() if row != "style" else 8.0,
                    "truth": (6 - 5 * skill) * base,
                    "truth_colour": (6 - 5 * skill) * base,
                    "truth_texture": (5 - 4 * skill) * base,
                }
                for metric, value in values.items():
                    assert metric in METRICS
                    yield {"pair_id": pair["pair_id"], "row": row, "metric": metric, "value": value, "sha256": ""}


def load(path: Path) -> Any:
    """A JSON file of a run directory."""
    return json.loads(path.read_text(encoding="utf-8"))
