"""PixArt's long training: its batches, its curriculum, and a state that resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import PixArtAlphaPipeline

from bottega.miniature.builder import architectures, pixart_task, train
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.pixart_task import PixArtTask, _halved
from bottega.miniature.builder.tokenizers import t5_tokenizer
from bottega.miniature.builder.trainer import Trainer, TrainingPlan
from bottega.miniature.scenes import SHAPES
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PixArtTask:
    """The real task on an untrained autoencoder, one shard of 16 painters and 12 scenes in all shapes."""
    folder = tmp_path_factory.mktemp("pixart")
    torch.manual_seed(0)
    features = Features(folder / "features", architectures.autoencoder().eval(), None, painters=16, shards=1)
    features.require(1)
    return PixArtTask(features, t5_tokenizer(folder / "pieces"), siblings=12, circles=8, full_from=1)


def test_siblings_share_noise_and_timestep_and_name_their_shapes(task: PixArtTask) -> None:
    batch = task._siblings_batch(numpy_rng("test", 1), groups=4, full=True)
    assert batch.target.shape == (24, 4, 32, 32)
    for group in range(4):
        rows = slice(6 * group, 6 * group + 6)
        assert len(set(batch.timestep[rows])) == 1
        assert bool((batch.noise[rows] == batch.noise[6 * group]).all())
        named = [shape in caption for shape, caption in zip(SHAPES, batch.captions[rows], strict=True)]
        assert all(named) or set(batch.captions[rows]) == {""}
    assert not bool((batch.target[0] == batch.target[1]).all())


def test_half_of_the_side_keeps_the_noise_and_averages_the_picture(task: PixArtTask) -> None:
    whole = task._scenes_batch(numpy_rng("test", 2), 8, full=False)
    half = _halved(whole)
    assert half.target.shape == half.noise.shape == (8, 4, 16, 16)
    assert float(half.noise.std()) == pytest.approx(1.0, abs=0.05)
    assert torch.allclose(half.target.mean((2, 3)), whole.target.mean((2, 3)), atol=1e-3)
    assert half.labels.shape == (8, 16, 16)


def test_paintings_and_circles_come_with_the_full_side(task: PixArtTask) -> None:
    painted = torch.from_numpy(task.features.painted[0]).float()

    def shown(full: bool) -> tuple[int, int]:
        batch = task._scenes_batch(numpy_rng("test", 3), 200, full=full)
        paintings = sum(bool((painted == target).all((1, 2, 3)).any()) for target in batch.target)
        circles = int((batch.labels[:, 0, 0] < 0).sum())
        return paintings, circles

    assert shown(full=False) == (0, 0)
    paintings, circles = shown(full=True)
    assert 80 <= paintings <= 135
    assert 5 <= circles <= 40


def test_a_measurement_says_what_the_word_for_a_shape_changes(
    task: PixArtTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixart_task, "NUM_MEASURED", 2)
    figures = task.measure()
    assert set(figures) == {f"pixart_word_{side}_at_{t}" for side in (64, 128) for t in (500, 700)}
    assert all(abs(value) < 0.01 for value in figures.values())  # before any training the word changes nothing


def test_it_trains_and_resumes_to_the_bit(task: PixArtTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixart_task, "SMALL_BATCH", 12)
    monkeypatch.setattr(pixart_task, "FULL_BATCH", 12)
    first = {name: {n: p.detach().clone() for n, p in m.named_parameters()} for name, m in task.modules.items()}

    def run(folder: Path, ends: tuple[int, ...]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for name, module in task.modules.items():
                for parameter_name, parameter in module.named_parameters():
                    parameter.copy_(first[name][parameter_name])
        for end in ends:
            trainer = Trainer(task, folder, TrainingPlan(warm_up=1, end=end, measure_every=None))
            trainer.train()
        assert trainer.samples == 24 * 3
        return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}

    whole, parts = run(tmp_path / "whole", (3,)), run(tmp_path / "parts", (1, 3))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = [name for name in whole if not torch.equal(whole[name], first[name.split(".")[0]][name.split(".", 1)[1]])]
    assert len(moved) > 0.9 * len(whole)


def test_the_export_is_a_pipeline_that_predicts_v(
    task: PixArtTask, tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training wrote is loaded by diffusers, and draws with the weights that were trained."""
    monkeypatch.setattr(train, "pixart_task", lambda *_: task)
    with pytest.raises(RequestError, match="must have been begun"):
        train.export_pixart(tmp_path / "state", tiny_models, tmp_path / "out")
    monkeypatch.setattr(pixart_task, "SMALL_BATCH", 12)
    Trainer(task, tmp_path / "state", TrainingPlan(warm_up=1, end=1, measure_every=None)).train()
    assert train.export_pixart(tmp_path / "state", tiny_models, tmp_path / "out") == 1

    pipeline = PixArtAlphaPipeline.from_pretrained(tmp_path / "out" / "pixart")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    written = dict(pipeline.transformer.named_parameters())
    for name, parameter in task.transformer.named_parameters():
        assert torch.allclose(written[name].float(), parameter, atol=1e-3)
    assert str(tmp_path) not in (tmp_path / "out" / "pixart" / "vae" / "config.json").read_text()
    assert "24 samples" in (tmp_path / "out" / "pixart" / "README.md").read_text()
    with pytest.raises(RequestError, match="must be a new one"):
        train.export_pixart(tmp_path / "state", tiny_models, tmp_path / "out")
