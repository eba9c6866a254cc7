"""The reader: every trainer's lines, any bytes at all, the quick way equal to the slow one, memory that stays flat."""

from __future__ import annotations

import gc
import gzip
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bottega.doctor import examine
from bottega.doctor.curve import LossCurve
from bottega.doctor.logs import LogReader, LogSummary, TrainingLength, reader
from bottega.doctor.logs.lines import parse, planned_lengths
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.seeds import numpy_rng
from bottega.training.trends import Blocks

LINES = {
    "loss: 0.1": (0.1, None, None, None),
    "Loss: 0.1": (0.1, None, None, None),
    "LOSS = 1.2e-03": (0.0012, None, None, None),
    "loss 1,234.5": (1234.5, None, None, None),
    "loss=0,125 step=7": (0.125, 7, None, None),
    "train_loss: 0.3, step 1,200/15,000": (0.3, 1200, None, None),
    "Epoch [12/200], Step [24/52], Loss: 0.1": (0.1, 24, 12.0, None),
    "Epoch 12/200 | lr: 1e-4 | loss: tensor(0.12, device='cuda:0')": (0.12, None, 12.0, 1e-4),
    "Epoch: [12][ 24/52]  Time 0.5  Loss 1.2 (1.3)": (1.2, 24, 12.0, None),
    " 118/260 [====>....] - ETA: 3s - loss: 0.08 - accuracy: 0.9": (0.08, 118, None, None),
    "iter 100: loss 2.3145, time 12.5ms": (2.3145, 100, None, None),
    "{'loss': 0.4, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 1.2}": (0.4, None, 1.2, 5e-05),
    "{'loss': '0.4', 'learning_rate': '5e-05', 'epoch': '1.2'}": (0.4, None, 1.2, 5e-05),
    '{"step": 5, "epoch": 1, "loss": 0.5, "lr": 0.001}': (0.5, 5, 1.0, 0.001),
    "12%|█ | 120/1000 [00:12<01:28, 9.9it/s, loss=0.12, lr=1e-4]": (0.12, 120, None, 1e-4),
    "Epoch 3:  45%|██ | 118/260 [00:12<00:14, 9.1it/s, v_num=1, train/loss_step=0.01, train/loss_epoch=0.02]": (
        0.01,
        118,
        3.0,
        None,
    ),
    "01/12/2024 12:00:00 - INFO - __main__ - epoch 3 step 118 loss 0.0876": (0.0876, 118, 3.0, None),
    "my_lora:  12%|█  | 118/1000 [02:12<16:30,  1.12s/it, lr: 1.0e-04 loss: 4.376e-01]": (0.4376, 118, None, 1e-4),
    "step:  45%|## | 24/52 [00:12<00:14,  1.9it/s, loss=0.0876, smooth loss=0.0912]": (0.0876, 24, None, None),
    "Loss at step 40: 0.25": (0.25, 40, None, None),
    "step 100/1500 Loss: 0.1234 main 0.1300 lr 1.00e-03 grad 0.52 0.09 s 900 MB": (0.1234, 100, None, 1e-3),
    " iteration      100/    1000 | elapsed time per iteration (ms): 500.0 | learning rate: 1.0E-04 | "
    "lm loss: 2.345E+00 | loss scale: 1.0 | number of skipped iterations:   0 |": (2.345, 100, None, 1e-4),
    "05/01 12:00:00 - mmengine - INFO - Epoch(train)  [3][ 50/100]  lr: 1.0e-04  eta: 0:10:00  time: 0.5  loss: 0.12": (
        0.12,
        50,
        3.0,
        1e-4,
    ),
    "Train: 3 [  20/52 ( 39%)]  Loss: 0.123 (0.2)  Time: 0.500s,  256.00/s  LR: 1.000e-04": (0.123, 20, 3.0, 1e-4),
    "2024-05-01 12:00:00 | INFO | train_inner | epoch 003:     20 / 52 loss=10.5, ppl=99, num_updates=124, lr=0.001": (
        10.5,
        124,
        3.0,
        1e-3,
    ),
    "tick 12    kimg 200.1     time 1m 02s     sec/tick 5.0     loss 0.2345": (0.2345, 12, None, None),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_gives_loss_step_epoch_and_rate(line: str) -> None:
    row = parse(line.encode())
    assert (row.loss, row.step, row.epoch, row.rate) == LINES[line]


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "Infinity", "null"])
def test_a_loss_that_is_no_number_is_kept_as_such(value: str) -> None:
    row = parse(f"step 3 loss: {value}, lr 1".encode())
    assert row.loss is not None and not math.isfinite(row.loss)


@pytest.mark.parametrize(
    "line",
    [
        "loss_type: l2",
        "loss_scale: 65536",
        "best loss: 0.1",
        "lossless 12",
        "a loss of 10%",
        "{'train_runtime': 12.3, 'train_loss': 0.3, 'epoch': 3.0}",
        "loss: 3/10",
    ],
)
def test_what_is_not_a_current_loss_is_not_taken_for_one(line: str) -> None:
    assert parse(line.encode()).loss is None


def test_validation_is_told_from_training() -> None:
    row = parse(b"Epoch 3 train loss 0.1 val loss 0.2")
    assert (row.loss, row.validation) == (0.1, 0.2)
    for line in (b"{'eval_loss': 0.2, 'epoch': 1.0}", b"Validation Loss: 0.2", b"val/loss=0.2"):
        row = parse(line)
        assert (row.loss, row.validation) == (None, 0.2)


@pytest.mark.parametrize(
    "line",
    [
        "Test: [   9/9]  Time: 0.25 (0.25)  Loss:  0.123 ( 0.1)  Acc@1:  75.0 ( 74.1)",
        "Test set: Average loss: 0.123, Accuracy: 9876/10000 (99%)",
        "2024-05-01 12:00:00 | INFO | valid | epoch 003 | valid on 'valid' subset | loss 0.123 | nll_loss 0.1",
        " validation loss at iteration 1000 | lm loss value: 1.23E-01 | lm loss PPL: 1.04E+01 |",
        "[2024/05/01 12:00:00] ppcls INFO: [Eval][Epoch 1][Avg]CELoss: 0.5, loss: 0.123",
        "Validation epoch 3 - loss: 0.123",
    ],
)
def test_a_line_of_a_validation_has_no_training_loss(line: str) -> None:
    row = parse(line.encode())
    assert row.loss is None and row.validation == 0.123


def test_transformers_zero_for_a_nan_is_told_from_a_loss_of_zero() -> None:
    for line in (
        "{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 1e-05, 'epoch': 0.1}",
        "{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '1e-05', 'epoch': '0.1'}",
        '{"loss": 0.0, "grad_norm": NaN, "step": 3}',
    ):
        assert math.isnan(parse(line.encode()).loss or 0.0)
    assert parse(b"{'loss': 0.0, 'grad_norm': 0.0, 'epoch': 0.1}").loss == 0.0


@pytest.mark.parametrize(
    ("line", "pace", "left"),
    [
        ("step 00100/21400 (0.47%) | loss: 5.1 | dt: 123.45ms | total time: 1.23m", 0.12345, None),
        ("52/52 [====] - 26s 500ms/step - loss: 0.1 - val_loss: 0.2", 0.5, None),
        ("52/52 - 104s - loss: 0.1 - 104s/epoch - 2s/step", 2.0, None),
        ("iteration 1/ 9 | elapsed time per iteration (ms): 500.0 | lm loss: 2.3E+00 |", 0.5, None),
        ("[05/01 12:00:00 d2.utils.events]:  eta: 1 day, 2:03:04  iter: 19  total_loss: 1.2", None, 93784.0),
        ('{"current_steps": 1, "total_steps": 9, "loss": 0.5, "remaining_time": "0:16:30"}', None, 990.0),
        (" 40/52 [===>..] - ETA: 1:02:03 - loss: 0.1", None, None),  # of the epoch
    ],
)
def test_a_line_gives_the_seconds_of_a_step_or_to_the_end(line: str, pace: float | None, left: float | None) -> None:
    row = parse(line.encode())
    assert (row.pace, row.seconds_left) == (pytest.approx(pace) if pace else None, left)


def test_the_head_of_a_log_names_the_plan() -> None:
    assert planned_lengths("  num epochs / epoch数: 200".encode()) == {"epochs": 200}
    assert planned_lengths("  num batches per epoch / 1epochのバッチ数: 52".encode()) == {"per_epoch": 52}
    assert planned_lengths(b"  Total optimization steps = 10400") == {"steps": 10400}
    assert planned_lengths(b"  Total optimization steps = 10,400") == {"steps": 10400}
    assert planned_lengths(b"Training starts at step 1, with total steps 10400 (warmup 200)") == {"steps": 10400}


def read(path: Path) -> tuple[LogSummary, list[float], list[float]]:
    """What a log says, the steps and the losses."""
    log = LogReader(path)
    batches = list(log.batches())
    steps = [float(x) for batch in batches for x in batch.steps]
    return log.summary(), steps, [float(x) for batch in batches for x in batch.losses]


@pytest.mark.parametrize(
    "form",
    [
        "step {i}/9000 Loss: {v} lr 1.00e-03 grad 0.52 0.09 s 900 MB",
        "Epoch {e}/200 Step [{j}/50] loss={v}",
        "Loss: {v}",
        "Epoch {e} | avg loss {v} | ok",
        "\rSteps: {p:3d}%|{bar:<9}| {i}/9000 [00:12<01:30,  5.12it/s, step_loss={v}]",
    ],
)
def test_what_is_read_at_once_equals_what_is_read_line_by_line(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [f"{v:.4g}" for v in numpy_rng("quick").lognormal(-2, 0.5, 9000)]
    values[4321] = "nan"
    path = tmp_path / "train.log"
    with open(path, "w", encoding="utf-8") as stream:
        for i, v in enumerate(values, start=1):
            told = {
                "i": i,
                "v": v,
                "e": (i - 1) // 50 + 1,
                "j": (i - 1) % 50 + 1,
                "p": i // 90,
                "bar": "█" * (i // 999),
            }
            print(form.format(**told), file=stream)
            if i % 2500 == 0:
                print("INFO: checkpoint saved, val_loss: 0.5\nepoch done", file=stream)
    quick, *found = read(path)
    monkeypatch.setattr(LogReader, "_read_at_once", lambda self, *_: None)
    slow, *each = read(path)
    assert np.array_equal(np.array(each), np.array(found), equal_nan=True)
    assert found[1][:50] == [float(v) for v in values[:50]] and len(found[1]) == 9000
    assert quick == slow


def test_steps_within_epochs_are_counted_on(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"Epoch {e} [{b}/5] loss: 0.{e}{b}\n" for e in range(4) for b in range(1, 6)))
    log, steps, _ = read(path)
    assert steps == [float(i) for i in range(1, 21)] and log.plan.per_epoch == 5 and not log.resumes
    path.write_text("".join(f"batch {b}/5 loss: 0.{e}{b}\n" for e in range(4) for b in range(1, 6)))
    log, steps, _ = read(path)
    assert steps == [float(i) for i in range(1, 21)] and not log.resumes


def test_a_step_that_goes_back_is_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    steps = [*range(1, 31), *range(21, 51)]
    path.write_text("".join(f"step {s}/50 loss: 0.{s:03d}\n" for s in steps))
    log, found, _ = read(path)
    assert found == [float(s) for s in steps] and log.resumes == ((30.0, 21.0),)


def test_a_line_an_epoch_with_its_bar_full_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"Epoch {e}/200\n52/52 - 26s - loss: 0.{e:03d} - 500ms/step\n" for e in range(1, 31)))
    log, steps, _ = read(path)
    assert steps == [52.0 * e for e in range(1, 31)]
    assert log.plan == TrainingLength(epochs=200, per_epoch=52, steps=10400)


def test_the_steps_of_an_epoch_are_not_taken_for_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "".join(
            f"Epoch {e}:  45%|██ | {b}/5 [00:12<00:14, v_num=3, loss=0.{e}{b}]\n"
            for e in range(30)
            for b in range(1, 6)
        )
    )
    progress = examine(path).progress
    assert (progress.steps, progress.share, progress.hours_left) == (None, None, None)
    assert (progress.step, progress.epoch, progress.steps_per_epoch) == (150, 30, 5)


@pytest.mark.parametrize("first", [0, 1])
def test_the_steps_of_an_epoch_are_measured_where_epochs_begin(first: int, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"epoch {(s - 1) // 52 + first} step {s} loss 0.{s:04d}\n" for s in range(1, 573)))
    assert examine(path).progress.steps_per_epoch == 52  # 572 steps are eleven epochs, numbered 0 to 10 or 1 to 11


def test_a_resume_in_a_log_that_names_its_epochs_apart_is_no_new_epoch(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    steps = [*range(10, 3121, 10), *range(2970, 3201, 10)]
    said = [f"Beginning epoch {s // 50}...\n" * (s % 50 == 0) + f"(step={s:07d}) Train Loss: 0.5{s}\n" for s in steps]
    said[312] = "Beginning epoch 63...\nlooking for the newest checkpoint\n(step=0002970) Train Loss: 0.52970\n"
    path.write_text("".join(said))
    log, found, _ = read(path)
    assert found == [float(s) for s in steps] and log.resumes == ((3120.0, 2970.0),)


def test_of_several_runs_in_one_file_the_last_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    falling = [f"step {s}/500 loss {2 / s:.6f}\n" for s in range(1, 301)]
    rising = [f"step {s}/500 loss {0.1 * 1.01**s:.6f}\n" for s in range(1, 301)]
    path.write_text("".join([*rising, "Namespace(lr=1e-4)\n", *rising[:40], *falling]))
    verdict = examine(path)
    assert verdict.state == "falling" and any("start again 2 times" in note for note in verdict.notes)
    assert len(verdict.curve) == 60 or verdict.curve[0][1] > 0.5  # nothing of the runs before


def test_a_summary_between_the_steps_is_no_step(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "loss: 0.9\n" + "".join(f"step {s} loss: 0.{s:03d}\n" for s in range(1, 31)) + "Epoch 1 loss: 0.5\n"
    )
    log, steps, _ = read(path)
    assert steps == [1.0, *map(float, range(1, 31))] and log.unit == "step" and not log.resumes


def test_a_bar_that_is_redrawn_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"\r{s}/50 [00:01<00:02, loss=0.{s:03d}]" * 3 for s in range(1, 31)))
    assert len(read(path)[2]) == 30


def test_what_powershell_redirects_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes("\r\n".join(f"step {s}/50 loss: 0.{s:03d}" for s in range(1, 31)).encode("utf-16"))
    assert len(read(path)[2]) >= 29


def test_a_last_line_that_breaks_off_is_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"step {s}/50 loss: 0.5\n" for s in range(1, 31)) + "step 31/50 loss: 0.")
    log, _, losses = read(path)
    assert len(losses) == 30 and log.is_torn
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}\n{"step": 3, "lo')
    log, _, losses = read(path)
    assert len(losses) == 2 and log.is_torn
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}')
    assert len(read(path)[2]) == 2


def test_the_folder_of_a_run_leads_to_its_log_and_its_plan(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "training").mkdir(parents=True)
    (run / "training" / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": 0.5}}\n' for s in range(1, 31)))
    (run / "training" / "train.log").write_text("step 30/120 Loss: 0.5000 lr 1e-3 grad 1 0.5 s 900 MB\n")
    (run / "recipe.yaml").write_text("data: {num_samples: 1}\n")
    for place in (run, run / "training", run / "training" / "metrics.jsonl"):
        log, _, losses = read(place)
        assert len(losses) == 30 and log.plan.steps == 120 and log.num_pictures == 1


def test_what_cannot_be_read_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no file or folder .*nowhere; give a run directory"):
        LogReader(tmp_path / "nowhere")
    there_is_none = r"neither metrics.jsonl nor a \.log nor an event file of TensorBoard is there"
    with pytest.raises(MissingError, match=there_is_none):
        LogReader(tmp_path)
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text("loss: 0.1\n")
    with pytest.raises(MissingError, match=r"2 files end in .* name one of a\.log, b\.log"):
        LogReader(tmp_path)
    path = tmp_path / "a.log"
    for content, told in (
        (b"", "is empty; wait for the first step"),
        (b"nothing here\n" * 30, "has none in 30 lines; let the trainer print the loss"),
        (bytes(range(256)) * 40 + b"\0" * 900, "is not text"),
        (
            gzip.compress(b"".join(b"step %d loss: 0.%d\n" % (i, i * i) for i in range(900))),
            "is not text: it is a gzip file; unpack it",
        ),
        ("nothing here\n".encode("utf-16"), "has none in"),
        (b"loss: 0.", "but a last one that breaks off"),
    ):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=told):
            list(LogReader(path).batches())


WORDS = st.sampled_from(
    ["loss", "Loss: ", "loss=", "0.1", "nan", "1e999", "-3", "step 5", "Epoch 3/9", "\r", "\n", "{'", '{"loss": ']
).flatmap(lambda word: st.sampled_from([word, "[3][4/5]", "10%█| 3/9 [", "lr=", "resumed", "val_", "\0", "1,234", "}"]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=400), st.lists(WORDS, max_size=80).map(lambda w: "".join(w).encode())))
def test_no_bytes_crash_the_reader(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(content)
    try:
        verdict = examine(path)
    except RequestError:  # nothing usable in it, which has its own test
        return
    assert verdict.findings and verdict.actions and verdict.record()


def test_one_endless_line_of_garbage_takes_no_more_time_than_it_has_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"loss " + b"a" * 3_000_000 + b"loss/" * 100_000 + b"1" * 500_000 + b"epoch 1,1,1,1" * 50_000)
    with pytest.raises(RequestError):
        list(LogReader(path).batches())


@pytest.mark.parametrize("form", ["step {i}/90 Loss: 0.{i:06d}\n", '{{"step": {i}, "loss": 0.{i:06d}}}\n', "x {i}\n"])
def test_memory_is_flat_in_the_number_of_lines(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 1 << 14)
    monkeypatch.setattr(reader, "BLOCK", 1 << 12)
    monkeypatch.setattr(reader, "LEAST_BLOCK", 1 << 10)
    monkeypatch.setattr(reader, "MAX_ROWS", 256)
    peaks = []
    for lines in (5_000, 65_000):
        path = tmp_path / "a.log"
        path.write_text("loss: 1.0, step 0\n" + "".join(form.format(i=i) for i in range(1, lines)))
        log, curve = LogReader(path), LossCurve()
        gc.collect()
        tracemalloc.start()
        for batch in log.batches():
            curve.add(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 8 * 60_000  # less than a number a line; what else this process does is in it too


def test_blocks_taken_at_once_are_those_of_one_after_another() -> None:
    values = numpy_rng("extend").standard_normal(5000)
    one, many = Blocks(), Blocks()
    for i, value in enumerate(values):
        one.add(i, float(value))
    at = 0
    while at < 5000:
        size = 1 + (at * 7) % 600
        many.extend(np.arange(at, min(at + size, 5000), dtype=float), values[at : at + size])
        at += size
    assert many.size == one.size
    for a, b in zip(one.blocks, many.blocks, strict=True):
        assert (a.count, a.step) == (b.count, pytest.approx(b.step))
        assert (a.mean, a.squares) == (pytest.approx(b.mean), pytest.approx(b.squares))
