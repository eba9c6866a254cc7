"""Pictures of a training: they show what they say; tests/training/test_loop.py holds that they never stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bottega.models.autoencoder import LatentEncoder
from bottega.models.config import ModelsConfig
from bottega.student.config import StudentConfig
from bottega.student.objective import StyleWorkload
from bottega.student.samples import StyleSampleWriter, sheet
from bottega.student.stage import prepare
from bottega.student.store import read_samples
from bottega.training.job import TrainingJob

CONFIG: dict[str, Any] = {
    "adapter": {"layers": 2, "strength": 0.4, "content_mode": "latent", "initial_gate": 0.5},
    "batch_size": 4,
    "accumulation": 1,
    "sampling": {"steps": 2},
    "validation": {"pictures": 2, "timesteps": 1, "samples": 2},
}


@pytest.fixture(scope="module")
def job(features: Path, models: ModelsConfig) -> TrainingJob[StyleWorkload]:
    return prepare(StudentConfig.model_validate(CONFIG), features, models)[0]


@pytest.fixture(scope="module")
def work(job: TrainingJob[StyleWorkload]) -> Any:
    made = job.work
    yield made
    made.attachment.detach()


def samples_of(work: StyleWorkload, features: Path, models: ModelsConfig) -> StyleSampleWriter:
    main = [row for row in read_samples(features) if row["task"] == "main"]
    return StyleSampleWriter(work, main, 2, Path(str(models.pixart)))


def test_content_and_target_are_the_caches_and_the_style_tells_the_last_two_apart(
    work: StyleWorkload, features: Path, models: ModelsConfig
) -> None:
    samples = samples_of(work, features, models)
    columns = samples.columns()
    vae = LatentEncoder(Path(str(models.pixart)) / "vae", "cpu")
    for name, column in zip(("content", "target"), columns, strict=False):
        expected = vae.decode(work.store.latents([row[name] for row in samples.rows]))
        assert np.abs(column.astype(float) - 255 * expected).max() <= 0.51
    assert all(column.shape == (2, 128, 128, 3) for column in columns)
    own, other = columns[2:]
    assert np.abs(own.astype(float) - other).max() > 1
    assert all(np.array_equal(a, b) for a, b in zip(samples.columns(), columns, strict=True))


def test_the_sheet_has_a_row_a_sample_and_its_columns_in_order(job: TrainingJob[StyleWorkload], tmp_path: Path) -> None:
    assert job.write_samples is not None
    (file,) = job.write_samples(tmp_path, 8)
    assert file == tmp_path / "samples" / "step_00000008.png"
    with Image.open(file) as drawn:
        assert drawn.size == (4 * 132 + 4, 2 * 132 + 4)
    columns = [np.full((2, 128, 128, 3), 10 * k, np.uint8) for k in range(4)]
    canvas = sheet(columns)
    assert [int(canvas[70, 4 + 132 * k + 64, 0]) for k in range(4)] == [0, 10, 20, 30]
    assert int(canvas[2, 2, 0]) == 255


def test_one_sample_is_set_against_a_style_from_the_rest_of_the_validation_and_one_style_against_none(
    work: StyleWorkload, features: Path, models: ModelsConfig
) -> None:
    main = [row for row in read_samples(features) if row["task"] == "main"]
    one = StyleSampleWriter(work, main, 1, Path(str(models.pixart)))
    assert len(one.rows) == len(one.others) == 1 and one.others[0]["style"] != one.rows[0]["style"]
    alike = [row for row in main if row["style"] == main[0]["style"]]
    assert len(StyleSampleWriter(work, alike, 2, Path(str(models.pixart))).columns()) == 3


def test_sheets_are_thinned_out_and_the_first_and_newest_stay(
    work: StyleWorkload, features: Path, models: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(work, features, models)
    monkeypatch.setattr(samples, "columns", lambda: [np.zeros((1, 8, 8, 3), np.uint8)])
    for step in range(1, 301):
        samples.write(tmp_path, step)
        kept = [int(file.stem.partition("_")[2]) for file in sorted((tmp_path / "samples").iterdir())]
        assert kept[0] == 1 and kept[-1] == step and len(kept) <= 64


def test_a_picture_that_is_not_finite_is_magenta_and_no_error(
    work: StyleWorkload,
    features: Path,
    models: ModelsConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = samples_of(work, features, models)
    monkeypatch.setattr(samples, "drawn", lambda rows, contents: torch.full_like(contents, float("nan")))
    assert (samples.columns()[2] == np.array([255, 0, 255], np.uint8)).all()
    assert "100 % of a sample picture is not finite" in caplog.text
