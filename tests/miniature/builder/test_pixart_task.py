"""PixArt's long training: its curriculum, and a state that resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bottega.miniature.builder import architectures, pixart_task
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.pixart_task import PixArtTask
from bottega.miniature.builder.tokenizers import clip_tokenizer, t5_tokenizer
from bottega.miniature.builder.trainer import Trainer, TrainingPlan
from bottega.miniature.scenes import scene
from bottega.runtime.seeds import numpy_rng


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PixArtTask:
    """The real task on an untrained autoencoder and three shards of eight painters."""
    folder = tmp_path_factory.mktemp("pixart")
    words = clip_tokenizer(folder / "words")
    clip = architectures.clip(len(words), words.eos_token_id).eval()
    features = Features(folder / "features", architectures.pixart_autoencoder().eval(), clip, painters=8)
    features.require(3)
    return PixArtTask(features, t5_tokenizer(folder / "pieces"))


def test_labels_and_latents_have_the_cells_of_pixarts_own_autoencoder(task: PixArtTask) -> None:
    assert task.features.plain[0].shape == (8, 4, 16, 16)
    assert task.features.labels[0].shape == (8, 16, 16)


def test_single_plain_objects_come_first_and_paintings_last(task: PixArtTask) -> None:
    features = task.features
    single = [row for row in range(len(features)) if len(scene(row).objects) == 1]
    rng = numpy_rng("test", 0)
    for _ in range(20):
        example = task._example(rng, step=0)
        shown = [features.plain[features.place(row)[0]][features.place(row)[1]] for row in single]
        assert any((example.latents == latents).all() for latents in shown)
    late = [task._example(rng, step=pixart_task.PAINTED_FROM).latents for _ in range(40)]
    paintings = [latents for shard in features.painted for latents in shard]
    painted = sum(any((latents == painting).all() for painting in paintings) for latents in late)
    assert 5 <= painted <= 30


def test_it_trains_and_resumes_to_the_bit(task: PixArtTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixart_task, "BATCH", 4)
    first = {name: {n: p.detach().clone() for n, p in m.named_parameters()} for name, m in task.modules.items()}

    def run(folder: Path, ends: tuple[int, ...]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for name, module in task.modules.items():
                for parameter_name, parameter in module.named_parameters():
                    parameter.copy_(first[name][parameter_name])
        for end in ends:
            trainer = Trainer(task, folder, TrainingPlan(warm_up=1, end=end, measure_every=None))
            trainer.train()
        return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}

    whole, parts = run(tmp_path / "whole", (3,)), run(tmp_path / "parts", (1, 3))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
