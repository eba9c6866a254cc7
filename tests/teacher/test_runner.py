"""The run: what is done stays done, what changed is done again, and nothing stops it but a person."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bottega.quality.measure import Judge
from bottega.runtime.errors import FingerprintError, Interrupted, MissingError, RequestError
from bottega.runtime.files import read_jsonl, sha256_file, write_png
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item, Settings
from bottega.teacher.ledger import Ledger
from bottega.teacher.runner import Runner, chunks

from .conftest import LIMITS, SIZE, DataSet

Teach = Callable[..., dict]


def pictures(directory: Path) -> dict[str, str]:
    """Every picture of a run with its hash; the contact sheet aside."""
    return {
        str(p.relative_to(directory)): sha256_file(p) for p in sorted(directory.rglob("*.png")) if p.parent != directory
    }


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def rows(directory: Path) -> list[tuple]:
    """Every row of a ledger, history too, but for its times."""
    with sqlite3.connect(directory / "ledger.sqlite") as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute("SELECT * FROM tries ORDER BY id")]
    return [tuple((k, v) for k, v in row.items() if k not in ("seconds", "created_at")) for row in found]


def test_every_pair_and_seed_becomes_a_target_with_a_row(teach: Teach, data: DataSet, tmp_path: Path) -> None:
    summary = teach()
    names = {f"images/{r['content_id']}_{r['style_id']}_seed{k}.png" for r in data.rows for k in (0, 1, 2)}
    assert set(pictures(tmp_path / "teacher")) >= names
    assert summary["targets"] == 18
    assert summary["made"] == summary["tries"] >= 18
    assert sum(summary["grades"].values()) == 18
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        for row in ledger.current():
            assert row.output_path is not None
            assert row.output_sha256 == sha256_file(tmp_path / "teacher" / row.output_path)
            assert row.parameters["strength"] == 0.40


def test_a_second_call_makes_nothing_and_changes_nothing(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = teach()
    before = pictures(tmp_path / "teacher"), rows(tmp_path / "teacher")
    monkeypatch.setattr("bottega.teacher.stage._teacher", lambda *_: pytest.fail("the teacher was loaded"))
    assert teach() == first
    assert (pictures(tmp_path / "teacher"), rows(tmp_path / "teacher")) == before


def test_enlarging_redoes_nothing_and_ends_like_one_large_run(teach: Teach, tmp_path: Path) -> None:
    small = tmp_path / "teacher"
    teach(limit=4, seeds=[0])
    times = {p: p.stat().st_mtime_ns for p in small.rglob("images/*.png")}
    teach(seeds=[0])
    teach()
    assert {p: p.stat().st_mtime_ns for p in times} == times
    whole = tmp_path / "whole"
    teach(whole)
    assert pictures(small) == pictures(whole)
    assert rows(small) == rows(whole)


def test_a_changed_input_is_done_again_and_a_renamed_one_is_not(teach: Teach, data: DataSet, tmp_path: Path) -> None:
    teach(seeds=[0])
    before = pictures(tmp_path / "teacher")
    renamed = {**data.rows[0], "content_id": "zebra", "content_path": "coco/images/zebra.png", "pair_id": "zebra_p0"}
    (data.root / data.rows[0]["content_path"]).rename(data.root / "coco/images/zebra.png")
    brighter = pixels(data.root / data.rows[1]["content_path"]) // 2 + 60
    write_png(data.root / data.rows[1]["content_path"], brighter)
    data.rewrite([renamed, *data.rows[1:]])
    teach(seeds=[0])
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        made = [row.target for row in ledger.current()]
    changed = f"{data.rows[1]['content_id']}_p1_seed0"
    assert len(made) >= 6
    assert "zebra_p0_seed0" in made
    after = pictures(tmp_path / "teacher")
    old = f"images/{data.rows[0]['content_id']}_p0_seed0.png"
    assert after["images/zebra_p0_seed0.png"] == before[old]
    assert old not in after
    history = [row for row in rows(tmp_path / "teacher") if dict(row)["target"] == changed and not dict(row)["current"]]
    assert history


def test_a_changed_prompt_is_done_again(teach: Teach, data: DataSet, tmp_path: Path) -> None:
    teach(seeds=[0])
    data.rewrite([{**data.rows[0], "prompt": "something else"}, *data.rows[1:]])
    teach(seeds=[0])
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        assert next(ledger.best()).prompt != data.rows[0]["prompt"] or any(
            r.prompt == "something else" for r in ledger.best()
        )


def test_a_deleted_picture_is_made_again(teach: Teach, tmp_path: Path) -> None:
    teach()
    before = pictures(tmp_path / "teacher")
    victim = tmp_path / "teacher" / next(iter(before))
    victim.unlink()
    teach()
    assert pictures(tmp_path / "teacher") == before


def test_a_broken_content_or_style_is_a_row_and_the_run_goes_on(teach: Teach, data: DataSet, tmp_path: Path) -> None:
    (data.root / data.rows[1]["content_path"]).write_bytes(b"no picture")
    (data.root / data.rows[4]["style_path"]).unlink()
    summary = teach(seeds=[0])
    assert (summary["broken"], summary["made"] >= 4, summary["targets"]) == (2, True, 6)
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        broken = {row.pair_id: row for row in ledger.current() if row.status == "broken"}
    assert set(broken) == {data.rows[1]["pair_id"], data.rows[4]["pair_id"]}
    assert all(row.grade == "C" and row.weight == 0 and row.reasons[0].startswith("broken:") for row in broken.values())
    assert teach(seeds=[0]) == summary


def test_another_setting_in_the_same_run_is_refused_and_seeds_and_size_are_not(teach: Teach) -> None:
    teach(limit=2, seeds=[0])
    teach(limit=3, seeds=[1], config={"seeds": (0, 1)})
    with pytest.raises(FingerprintError, match=r"teacher\.strength"):
        teach(config={"strength": 0.45})
    with pytest.raises(RequestError, match="no pair has one of the seeds"):
        teach(seeds=[7])


def test_ctrl_c_finishes_the_chunk_saves_and_exits_130(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runner.do

    def interrupted(self: Runner, chunk: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, chunk)

    monkeypatch.setattr(Runner, "do", interrupted)
    with pytest.raises(Interrupted) as error:
        teach()
    assert error.value.exit_code == 130
    monkeypatch.undo()
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        assert ledger.count() == 2
    assert len(list(read_jsonl(tmp_path / "teacher/metadata.jsonl"))) == 2
    teach()
    teach(tmp_path / "whole")
    assert rows(tmp_path / "teacher") == rows(tmp_path / "whole")


_PROGRAM = """
import sys
from pathlib import Path
from bottega.models.config import ModelsConfig
from bottega.teacher.config import TeacherConfig
from bottega.teacher.stage import run
root, directory = Path(sys.argv[1]), Path(sys.argv[2])
config = TeacherConfig(source="oracle", size=64, batch_size=2, sheet_after=0)
print("ready", flush=True)
where = {"pairs": root / "train.jsonl", "data_root": root, "thresholds": root / "thresholds.json"}
run(config, directory, models=ModelsConfig(), **where)
"""


def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes_and_rows(
    teach: Teach, data: DataSet, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    teach(whole)
    command = [sys.executable, "-c", _PROGRAM, str(data.root), str(killed)]
    rng = np.random.default_rng(0)
    for share in (0.0, 0.2, 0.5, 0.8):  # of the pictures that must be there before the kill
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None and len(list(killed.glob("images/*.png"))) < share * 18:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.02)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    subprocess.run(command, check=True, capture_output=True)
    assert pictures(killed) == pictures(whole)
    assert rows(killed) == rows(whole)
    assert [p.name for p in killed.rglob(".*.tmp")] == []


class Faulty:
    """A teacher whose every first try is wrong in a way that the test chooses; it implements the real interface."""

    def __init__(self, spoil: Callable[[Item, np.ndarray], np.ndarray], data: DataSet) -> None:
        from bottega.teacher.oracle import Oracle

        self.spoil, self.oracle = spoil, Oracle(data.root / "truth", SIZE)

    def generate(self, items: list[Item]) -> list[np.ndarray]:
        return [self.spoil(i, p.copy()) for i, p in zip(items, self.oracle.generate(items), strict=True)]

    def round_trip(self, item: Item) -> None:
        return None

    def effective(self, settings: Settings) -> dict:
        return {}


def run_faulty(data: DataSet, directory: Path, spoil: Callable[[Item, np.ndarray], np.ndarray]) -> list:
    config = TeacherConfig(source="oracle", size=SIZE, batch_size=3)
    with Ledger(directory / "ledger.sqlite") as ledger:
        runner = Runner(
            config, directory, data.root, teacher=lambda: Faulty(spoil, data), judge=lambda: Judge(None),
            thresholds=LIMITS, ledger=ledger, fingerprint="f",
        )  # fmt: skip
        for chunk in chunks([data.rows], [0], 3):
            runner.do(chunk)
        from bottega.teacher.export import write_lists

        write_lists(ledger, directory)
        return list(ledger.current())


def test_a_c_is_retried_by_its_cause_and_the_best_try_is_the_target(data: DataSet, tmp_path: Path) -> None:
    def copy_at_first(item: Item, picture: np.ndarray) -> np.ndarray:
        copied = item.settings is not None and item.settings.ip_adapter_scale <= 0.30
        return item.content.astype(np.float32) / 255 if copied else picture

    found = run_faulty(data, tmp_path / "t", copy_at_first)
    assert [(row.try_index, row.rung) for row in found[:2]] == [(0, "first"), (1, "stronger 1")]
    assert [row.grade == "C" for row in found[:2]] == [True, False]
    assert found[0].reasons[0].startswith("unchanged:")
    target = pixels(tmp_path / "t/images" / f"{found[0].target}.png")
    assert np.array_equal(target, pixels(data.root / "truth" / f"{found[0].pair_id}_seed0.png"))
    assert (tmp_path / "t/tries" / f"{found[0].target}_try0.png").is_file()
    overrides = list(read_jsonl(tmp_path / "t/qc_overrides.jsonl"))
    assert overrides[0]["changed"] == {"ip_adapter_scale": 0.35}


def test_when_all_tries_are_c_the_best_of_them_is_kept_with_weight_0(data: DataSet, tmp_path: Path) -> None:
    def worse_each_time(item: Item, picture: np.ndarray) -> np.ndarray:
        return item.content.astype(np.float32) / 255 if item.noise_index == 0 else np.zeros_like(picture)

    found = run_faulty(data, tmp_path / "t", lambda i, p: worse_each_time(i, p) if i.settings else p)
    assert {row.grade for row in found} == {"C"}
    assert len(found) == 3 * len(data.rows)
    best = list(read_jsonl(tmp_path / "t/metadata.jsonl"))
    assert all(row["try_index"] == 0 and row["weight"] == 0 for row in best)


def test_what_is_not_finite_becomes_a_failed_try_and_new_noise_mends_it(data: DataSet, tmp_path: Path) -> None:
    def nan_at_first(item: Item, picture: np.ndarray) -> np.ndarray:
        return np.full_like(picture, np.nan) if item.noise_index == 0 else picture

    found = run_faulty(data, tmp_path / "t", nan_at_first)
    assert [(row.status, row.rung, row.output_path is None) for row in found[:2]] == [
        ("failed", "first", True),
        ("ok", "noise 1", False),
    ]
    assert found[0].reasons == ["finite: 100.0% of the values are not finite"]


def test_an_oracle_without_its_truth_says_so(teach: Teach, data: DataSet) -> None:
    shutil.rmtree(data.root / "truth")
    with pytest.raises(MissingError, match="draw the truths first"):
        teach()


def test_an_oracle_goes_round_the_truths_that_were_drawn(data: DataSet) -> None:
    from bottega.teacher.oracle import Oracle

    pair = data.rows[0]
    drawn = [pixels(path) for path in sorted((data.root / "truth").glob(f"{pair['pair_id']}_seed*.png"))]
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    for fresh in range(2 * len(drawn) + 1):  # however often a try draws its noise afresh
        settings = Settings.of(TeacherConfig()).with_(noise=fresh)
        item = Item(pair["pair_id"], "", "", "", seed=1, content=picture, style=picture, settings=settings)
        made = Oracle(data.root / "truth", SIZE).generate([item])[0]
        assert np.array_equal(np.round(made * 255), drawn[(1 + fresh) % len(drawn)])


def test_metadata_has_every_key_in_each_row_and_a_file_for_each(teach: Teach, tmp_path: Path) -> None:
    teach()
    found = list(read_jsonl(tmp_path / "teacher/metadata.jsonl"))
    assert len(found) == 18
    assert len({tuple(row) for row in found}) == 1
    assert all((tmp_path / "teacher" / row["file_name"]).is_file() for row in found)
    assert json.loads(json.dumps(found[0]))["file_name"].startswith("images/")


def test_csv_and_parquet_hold_every_try(teach: Teach, tmp_path: Path) -> None:
    teach()
    expected = rows(tmp_path / "teacher")
    with open(tmp_path / "teacher/ledger.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    parquet = pq.read_table(tmp_path / "teacher/ledger.parquet").to_pylist()
    assert len(table) == len(parquet) == len(expected)
    assert (
        [row["target"] for row in table] == [row["target"] for row in parquet] == [dict(r)["target"] for r in expected]
    )
    assert parquet[0]["noise_seed"] == int(table[0]["noise_seed"]) == dict(expected[0])["noise_seed"]


def test_the_first_contact_sheet_is_drawn_before_the_run_ends(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bottega.teacher.stage as stage

    drawn: list[int] = []
    real = stage.draw_sheet

    def counted(ledger: Ledger, *rest: Path) -> int:
        drawn.append(ledger.count())
        return real(ledger, *rest)

    monkeypatch.setattr(stage, "draw_sheet", counted)
    teach(config={"sheet_after": 4})
    assert drawn == [4, 18]
    assert pixels(tmp_path / "teacher/contact_sheet.png").shape[1] > 600
