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
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bottega.data.records import read_pairs
from bottega.quality.measuring import Judge
from bottega.runtime.errors import (
    FingerprintError,
    Interrupted,
    MissingError,
    RequestError,
    StartAfresh,
    StorageError,
)
from bottega.runtime.files import read_jsonl, sha256_file, write_png
from bottega.runtime.trust import LIST
from bottega.teacher.config import TeacherConfig
from bottega.teacher.export import write_csv
from bottega.teacher.items import Item, Made, Settings
from bottega.teacher.ledger import Ledger
from bottega.teacher.making import ChunkMaker
from bottega.teacher.models import TeacherModels
from bottega.teacher.runner import Runner
from bottega.teacher.work import Chunk, chunks

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
    names = {f"{r['content_id']}_{r['style_id']}_seed{k}.png" for r in data.rows for k in (0, 1, 2)}
    made = [path.partition("/") for path in pictures(tmp_path / "teacher")]
    assert {name for folder, _, name in made if folder in ("images", "rejected")} == names
    assert summary["targets"] == 18
    assert summary["made"] == summary["tries"] >= 18
    assert sum(summary["grades"].values()) == 18
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        for row in ledger.current():
            assert row.output_path is not None
            assert row.output_sha256 == sha256_file(tmp_path / "teacher" / row.output_path)
            assert row.parameters == {"source": "oracle", "noise": 0, "batch": 2}


def test_a_second_call_makes_nothing_and_changes_nothing(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = teach()
    before = pictures(tmp_path / "teacher"), rows(tmp_path / "teacher")
    monkeypatch.setattr(
        "bottega.teacher.models.TeacherModels.teacher", property(lambda _: pytest.fail("it was loaded"))
    )
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


@pytest.mark.parametrize("way_out", ["dots", "absolute", "link"])
def test_a_row_whose_picture_lies_outside_of_the_run_is_refused_and_the_file_stays(
    teach: Teach, data: DataSet, tmp_path: Path, way_out: str
) -> None:
    teach(seeds=[0])
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"not bottega's")
    path = {"absolute": str(mine), "link": "link/mine.png"}.get(way_out, "../mine.png")
    (tmp_path / "teacher" / "link").symlink_to(tmp_path)
    victim = f"{data.rows[0]['pair_id']}_seed0"
    with closing(sqlite3.connect(tmp_path / "teacher/ledger.sqlite")) as db, db:
        db.execute("UPDATE tries SET output_path = ? WHERE target = ?", (path, victim))
    (tmp_path / "teacher" / LIST).unlink()  # whoever writes such a row can record the file's hash too
    data.rewrite([{**data.rows[0], "prompt": "something else"}, *data.rows[1:]])  # its picture is to be replaced
    with pytest.raises(RequestError, match=rf"target {victim}: output_path must be a path inside .* received '{path}'"):
        teach(seeds=[0])
    assert mine.read_bytes() == b"not bottega's"


@pytest.mark.parametrize("key", ["content_id", "style_id", "pair_id"])
def test_an_id_that_would_lead_out_of_the_run_is_refused_before_anything_is_made(
    teach: Teach, data: DataSet, tmp_path: Path, key: str
) -> None:
    directory = tmp_path / "deep" / "down" / "below" / "teacher"
    data.rewrite([{**data.rows[0], key: "../../../../x"}, *data.rows[1:]])
    with pytest.raises(RequestError, match=rf"train\.jsonl, line 1: {key}: .* received '../../../../x'"):
        teach(directory, seeds=[0])
    assert not list(tmp_path.glob("x*"))
    assert not list(directory.rglob("*.png"))


@pytest.mark.parametrize("key", ["content_path", "style_path"])
@pytest.mark.parametrize("path", ["../mine.png", "link/mine.png", "{mine}", "a\0b", ""])
def test_a_pair_whose_picture_lies_outside_of_the_data_root_is_refused_before_anything_is_made(
    teach: Teach, data: DataSet, tmp_path: Path, key: str, path: str
) -> None:
    shutil.copy(data.root / data.rows[0]["content_path"], tmp_path / "mine.png")
    (data.root / "link").symlink_to(tmp_path)
    data.rewrite([{**data.rows[0], key: path.format(mine=tmp_path / "mine.png")}, *data.rows[1:]])
    with pytest.raises(RequestError, match="a path must be a picture below"):
        teach(seeds=[0])
    assert not list((tmp_path / "teacher").rglob("*.png"))


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
    real = ChunkMaker.denoise

    sent = [os.getpid()]

    def interrupted(self: ChunkMaker, chunk: Chunk) -> object:
        if sent:
            os.kill(sent.pop(), signal.SIGINT)
        return real(self, chunk)

    monkeypatch.setattr(ChunkMaker, "denoise", interrupted)
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

    def encode(self, items: list[Item]) -> None:
        pass

    def denoise(self, items: list[Item], batch: int) -> list[None]:
        return [None] * len(items)

    def finish(self, items: list[Item], latents: list[None]) -> list[Made]:
        return [Made(self.spoil(i, p.copy())) for i, p in zip(items, self.oracle.generate(items), strict=True)]

    def round_trip(self, item: Item) -> None:
        return None

    def parameters(self, settings: Settings) -> dict:
        return asdict(settings)


class GivenModels(TeacherModels):
    """A teacher of the test's own, and a judge without CLIP; nothing is loaded."""

    def __init__(self, teacher: object) -> None:
        self.teacher, self.judge, self.random_roles = teacher, Judge(None), []


def a_runner(config: TeacherConfig, ledger: Ledger, data_root: Path, models: TeacherModels) -> Runner:
    return Runner(ChunkMaker(config, ledger.path, data_root, models, LIMITS, "f"), ledger)


def run_faulty(data: DataSet, directory: Path, spoil: Callable[[Item, np.ndarray], np.ndarray]) -> list:
    config = TeacherConfig(source="oracle", size=SIZE, batch_size=3)
    with Ledger(directory / "ledger.sqlite") as ledger:
        runner = a_runner(config, ledger, data.root, GivenModels(Faulty(spoil, data)))
        for _ in runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 3)):
            pass
        from bottega.teacher.export import write_lists

        write_lists(ledger, directory)
        return list(ledger.current())


def test_targets_of_random_weights_say_so_in_picture_and_row(data: DataSet, tmp_path: Path) -> None:
    config = TeacherConfig(source="oracle", size=SIZE, batch_size=3)
    models = GivenModels(Faulty(lambda _, picture: picture, data))
    models.random_roles = ["sdxl"]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for _ in a_runner(config, ledger, data.root, models).run(chunks([lambda: read_pairs(data.pairs)], [0], 3)):
            pass
        rows = list(ledger.current())
    assert rows
    for row in rows:
        assert row.parameters["random_weights"] == ["sdxl"]
        with Image.open(tmp_path / str(row.output_path)) as image:
            assert image.text["Disclaimer"] == "made with random weights of a rehearsal: noise, no result (sdxl)"


def test_a_c_is_retried_by_its_cause_and_the_best_try_is_the_target(data: DataSet, tmp_path: Path) -> None:
    def copy_at_first(item: Item, picture: np.ndarray) -> np.ndarray:
        return item.content.astype(np.float32) / 255 if item.noise_index == 0 else picture

    found = run_faulty(data, tmp_path / "t", copy_at_first)
    assert [(row.try_index, row.rung) for row in found[:2]] == [(0, "first"), (1, "noise 1")]
    assert [row.grade == "C" for row in found[:2]] == [True, False]
    assert found[0].reasons[0].startswith("unchanged:")
    target = pixels(tmp_path / "t/images" / f"{found[0].target}.png")
    assert np.array_equal(target, pixels(data.root / "truth" / f"{found[0].pair_id}_seed1.png"))
    assert (tmp_path / "t/tries" / f"{found[0].target}_try0.png").is_file()
    overrides = list(read_jsonl(tmp_path / "t/qc_overrides.jsonl"))
    assert overrides[0]["changed"] == {"noise": 1}


def test_when_all_tries_are_c_the_best_of_them_is_kept_with_weight_0(data: DataSet, tmp_path: Path) -> None:
    def worse_each_time(item: Item, picture: np.ndarray) -> np.ndarray:
        return item.content.astype(np.float32) / 255 if item.noise_index == 0 else np.zeros_like(picture)

    found = run_faulty(data, tmp_path / "t", lambda i, p: worse_each_time(i, p) if i.settings else p)
    assert {row.grade for row in found} == {"C"}
    assert len(found) == 3 * len(data.rows)
    best = list(read_jsonl(tmp_path / "t/metadata.jsonl"))
    assert all(row["try_index"] == 0 and row["weight"] == 0 for row in best)
    assert {row["file_name"].partition("/")[0] for row in best} == {"rejected"}
    assert not (tmp_path / "t/images").exists()


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


def test_where_drawn_truths_stand_in_for_the_teacher_every_file_says_so(
    teach: Teach, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings = []
    monkeypatch.setattr("bottega.teacher.sheet.draw_triples", lambda *_, heading: headings.append(heading))
    summary = teach(seeds=[0])
    assert {key: summary[key] for key in ("source", "protocol", "departures", "schedule")} == {
        "source": "oracle",
        "protocol": None,
        "departures": {"source": {"protocol": "sdxl", "here": "oracle"}},
        "schedule": None,
    }
    assert headings == ["content | style | oracle (drawn truth)"]
    assert {row["source"] for row in read_jsonl(tmp_path / "teacher/metadata.jsonl")} == {"oracle"}
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        for row in ledger.current():  # nothing of a protocol that never ran
            assert row.parameters == {"source": "oracle", "noise": 0, "batch": 2}


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
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        assert write_csv(ledger, tmp_path / "again.csv") == len(expected)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "teacher/ledger.csv").read_bytes()
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


def runner_of(data: DataSet, directory: Path, ledger: Ledger, teacher: object, **options: object) -> Runner:
    """A runner on the data set with a teacher of the test's own; `options` of the configuration."""
    config = TeacherConfig(**{"source": "oracle", "size": SIZE, "batch_size": 3, **options})
    return a_runner(config, ledger, data.root, GivenModels(teacher))


class Crowded(Faulty):
    """A teacher that runs out of memory with more than two pictures at once, as a full GPU does."""

    def __init__(self, data: DataSet) -> None:
        super().__init__(lambda _, picture: picture, data)
        self.batches: list[int] = []

    def denoise(self, items: list[Item], batch: int) -> list[None]:
        self.batches.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [None] * len(items)


def test_out_of_memory_makes_the_batch_smaller_and_is_never_a_bad_picture(data: DataSet, tmp_path: Path) -> None:
    teacher = Crowded(data)
    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        runner = runner_of(data, tmp_path / "t", ledger, teacher, batch_size=8)
        assert sum(count for count, _ in runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 8))) == len(data.rows)
        found = list(ledger.current())
    assert teacher.batches[:3] == [8, 4, 2]
    assert {row.status for row in found} == {"ok"}
    assert {row.parameters["batch"] for row in found} == {2}


def test_a_process_that_grows_stops_with_all_saved_for_a_fresh_one(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bottega.runtime.memory.Creep.add", lambda self, rss: 2000.0)
    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        runner = runner_of(data, tmp_path / "t", ledger, Faulty(lambda _, p: p, data))
        with pytest.raises(StartAfresh, match="2000 MB"):
            list(runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 3)))
        assert ledger.count() == 3


def test_what_gave_no_picture_stays_so_until_it_is_asked_for_again(teach: Teach, data: DataSet, tmp_path: Path) -> None:
    style = data.root / data.rows[2]["style_path"]
    whole = style.read_bytes()
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        nan = Faulty(lambda item, p: np.full_like(p, np.nan) if item.pair_id == data.rows[1]["pair_id"] else p, data)
        style.write_bytes(b"no picture")
        list(runner_of(data, tmp_path / "teacher", ledger, nan).run(chunks([lambda: read_pairs(data.pairs)], [0], 3)))
        assert sorted({r.status for r in ledger.best()}) == ["broken", "failed", "ok"]
    before = rows(tmp_path / "teacher")
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        again = runner_of(data, tmp_path / "teacher", ledger, Faulty(lambda _, p: p, data))
        assert [made for _, made in again.run(chunks([lambda: read_pairs(data.pairs)], [0], 3)) if made] == []
        assert rows(tmp_path / "teacher") == before
        again.backlog.retry_failed = True
        style.write_bytes(whole)
        list(again.run(chunks([lambda: read_pairs(data.pairs)], [0], 3)))
        assert {row.status for row in ledger.best()} == {"ok"}
        assert ledger.count() == len(data.rows)


def test_where_only_the_best_try_is_kept_the_others_leave_their_rows(data: DataSet, tmp_path: Path) -> None:
    first_black = Faulty(lambda item, p: np.zeros_like(p) if item.noise_index == 0 else p, data)
    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        runner = runner_of(data, tmp_path / "t", ledger, first_black, keep_tries="best")
        list(runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 3)))
        tries = [(row.try_index, row.output_path is None, row.status) for row in ledger.current()]
        assert tries == [(0, True, "ok"), (1, False, "ok")] * len(data.rows)
        assert all(row.try_index == 1 for row in ledger.best())
    assert not (tmp_path / "t/tries").exists()


def test_a_content_that_disappears_midway_is_a_row_and_the_rest_is_done(data: DataSet, tmp_path: Path) -> None:
    def losing(item: Item, picture: np.ndarray) -> np.ndarray:
        (data.root / data.rows[5]["style_path"]).unlink(missing_ok=True)
        return picture

    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        runner = runner_of(data, tmp_path / "t", ledger, Faulty(losing, data), batch_size=1)
        runner.maker.memory.pressure.ahead = False
        list(runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 1)))
        found = {row.pair_id: row.status for row in ledger.best()}
    assert found.pop(data.rows[5]["pair_id"]) == "broken"
    assert set(found.values()) == {"ok"}


def test_a_full_disk_stops_the_run_with_all_that_was_entered_and_the_same_command_goes_on(
    teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bottega.teacher.writer as writer

    real, written = writer.write_png, []

    def filling(path: Path, picture: np.ndarray, text: dict[str, str]) -> str:
        if len(written) == 7:
            raise StorageError(f"{path}: the disk is full")
        written.append(path)
        return real(path, picture, text)

    monkeypatch.setattr(writer, "write_png", filling)
    with pytest.raises(StorageError, match="disk is full"):
        teach()
    with Ledger(tmp_path / "teacher/ledger.sqlite") as ledger:
        entered = [row.output_path for row in ledger.current() if row.output_path]
    assert entered
    assert all((tmp_path / "teacher" / path).is_file() for path in entered)
    monkeypatch.undo()
    teach()
    teach(tmp_path / "whole")
    assert pictures(tmp_path / "teacher") == pictures(tmp_path / "whole")
    assert rows(tmp_path / "teacher") == rows(tmp_path / "whole")


def test_retries_go_out_with_their_own_chunk_and_rows_are_entered_in_the_order_of_the_list(
    data: DataSet, tmp_path: Path
) -> None:
    class Noting(Faulty):
        asked: ClassVar[list[list[str]]] = []

        def denoise(self, items: list[Item], batch: int) -> list[None]:
            self.asked.append([f"{item.style_id}.{item.noise_index}" for item in items])
            return [None] * len(items)

    bad = Noting(lambda i, p: np.zeros_like(p) if i.style_id in ("p0", "p3") and i.noise_index == 0 else p, data)
    with Ledger(tmp_path / "t/ledger.sqlite") as ledger:
        runner = runner_of(data, tmp_path / "t", ledger, bad, batch_size=2)
        list(runner.run(chunks([lambda: read_pairs(data.pairs)], [0], 2)))
        assert [row.style_id for row in ledger.best()] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert bad.asked == [["p0.0", "p1.0"], ["p2.0", "p3.0"], ["p0.1"], ["p3.1"], ["p4.0", "p5.0"]]


def test_many_windows_make_what_one_makes(teach: Teach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(tmp_path / "whole")
    monkeypatch.setattr("bottega.teacher.backlog.WINDOW", 2)
    monkeypatch.setattr("bottega.teacher.backlog._MAX_HASHES", 3)
    teach()
    assert pictures(tmp_path / "teacher") == pictures(tmp_path / "whole")
    assert rows(tmp_path / "teacher") == rows(tmp_path / "whole")
