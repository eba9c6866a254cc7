"""CLIP's long training: what its head reads, what stays as it was, and features that follow the new tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bottega.cli.miniature import app
from bottega.miniature.builder import architectures, clip_task, train
from bottega.miniature.builder.clip_task import CLIPTask
from bottega.miniature.builder.corpus import Corpus, draw_corpus
from bottega.miniature.builder.encoding import embed
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.learn_encoders import StyleHead
from bottega.miniature.builder.tokenizers import clip_tokenizer
from bottega.miniature.builder.trainer import Trainer, TrainingPlan
from bottega.miniature.painters import painter, render
from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES, LONG_TRAINING_PAINTERS
from bottega.miniature.scenes import scene
from bottega.training.processes import Processes

PLAN = TrainingPlan(warm_up=1, end=2, schedule="cosine", average=0.9, measure_every=None)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Corpus]:
    """Sixteen painters to learn from, eight held out."""
    folder = tmp_path_factory.mktemp("clip")
    known = draw_corpus(folder, 16, 0, LONG_TRAINING_PAINTERS, 16, workers=1)
    return known, draw_corpus(folder, 8, GATE_SCENES, GATE_PAINTERS, 8, workers=1)


@pytest.fixture
def task(corpora: tuple[Corpus, Corpus], tmp_path: Path) -> CLIPTask:
    """The real task on untrained encoders."""
    words = clip_tokenizer(tmp_path / "words")
    clip = architectures.clip(len(words), words.eos_token_id).eval()
    second = architectures.second_text_encoder(len(words), words.eos_token_id).eval()
    return CLIPTask(clip, second, words, *corpora)


def test_a_perfect_head_reads_every_palette(task: CLIPTask) -> None:
    head, corpus = task.head, task.corpus
    right = head.answers(corpus)
    seen = torch.nn.functional.normalize(torch.randn(len(corpus), architectures.WIDTH), dim=-1)
    wanted = torch.cat([torch.eye(8)[torch.from_numpy(right.kinds)], head.facts], dim=1)
    with torch.no_grad():  # as many embeddings as painters, so a linear map fits them all
        solved = torch.linalg.lstsq(seen * architectures.WIDTH**0.5, wanted, driver="gelsd").solution
        head.weight.copy_(solved.T)
        head.bias.zero_()
        read = head.read(seen)
        _, facts = head.losses(seen, np.arange(len(corpus)))
    assert np.array_equal(read.kinds, right.kinds)
    assert float(np.abs(read.palettes - right.palettes).max()) < 0.05
    assert float(facts) < 1e-6
    assert np.allclose(right.palettes[3], painter(LONG_TRAINING_PAINTERS + 3).palette)


def test_an_error_of_a_palette_counts_as_it_looks(corpora: tuple[Corpus, Corpus]) -> None:
    head = StyleHead(corpora[0])
    deviations = head.facts[:, :12].std(0)
    lightness, chroma = deviations[::3], deviations[1::3]
    assert float(lightness.max()) < 0.3 * float(chroma.min())  # stops differ in hue by far more than in lightness
    assert torch.unique(head.deviation[:12]).numel() == 1


def test_only_the_picture_tower_learns(task: CLIPTask, tmp_path: Path) -> None:
    text = {name: value.clone() for name, value in task.clip.text_model.state_dict().items()}
    vision = {name: value.clone() for name, value in task.clip.vision_model.state_dict().items()}
    scale = task.clip.logit_scale.clone()
    Trainer(task, tmp_path, PLAN).train()
    assert all(torch.equal(value, task.clip.text_model.state_dict()[name]) for name, value in text.items())
    assert torch.equal(scale, task.clip.logit_scale)
    moved = [
        name for name, value in vision.items() if not torch.equal(value, task.clip.vision_model.state_dict()[name])
    ]
    assert len(moved) > 0.9 * len(vision) - 2
    figures = task.measure()
    assert set(figures) == {"clip_kind", "clip_palette"}
    assert figures["clip_palette"] > 5.0


def test_features_follow_a_clip_that_was_trained_since(tmp_path: Path) -> None:
    words = clip_tokenizer(tmp_path / "words")
    towers = [architectures.clip(len(words), words.eos_token_id).eval() for _ in range(2)]
    vae = architectures.autoencoder().eval()
    opened = []
    for tower in towers:
        features = Features(tmp_path / "features", vae, tower, painters=4)
        features.require(2)
        opened.append(features)
    first, second = opened
    for shard in range(2):
        assert np.array_equal(first.plain[shard], second.plain[shard])
        assert np.array_equal(first.painted[shard], second.painted[shard])
        rows = range(4 * shard, 4 * shard + 4)
        paintings = np.stack([render(scene(row), painter(second.painter_index(row))) for row in rows])
        assert np.allclose(second.styles[shard], embed(towers[1], paintings), atol=1e-5)
        assert not np.allclose(first.styles[shard], second.styles[shard], atol=1e-2)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    Features(tmp_path / "features", vae, towers[1], painters=4).require(2)
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}


def test_an_export_changes_both_places_of_the_tower_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tiny_models: Path, tmp_path: Path
) -> None:
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    for name, value in (("CLIP_PAINTERS", 16), ("CLIP_HELD_OUT", 8), ("CLIP_PLAN", PLAN)):
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(clip_task, "BATCH", 8)
    state, output = tmp_path / "state", tmp_path / "new"
    refused = CliRunner().invoke(app, ["export", "--model", "clip", "--state", str(state), "--output", str(output)])
    assert refused.exit_code != 0
    assert not output.exists()
    trained = train.train_clip(state, tiny_models)
    assert train.export_clip(state, tiny_models, output) == trained.step == 2
    before, after = (CLIPModel.from_pretrained(folder / "clip") for folder in (tiny_models, output))
    tower = CLIPVisionModelWithProjection.from_pretrained(output / "ip_adapter" / "image_encoder")
    assert not torch.equal(before.visual_projection.weight, after.visual_projection.weight)
    assert torch.equal(tower.visual_projection.weight, after.visual_projection.weight)
    assert torch.equal(before.text_projection.weight, after.text_projection.weight)
    adapter = "ip_adapter/ip_adapter.safetensors"
    assert (output / adapter).read_bytes() == (tiny_models / adapter).read_bytes()
    assert "16 pictures" in (output / "clip" / "README.md").read_text()


@pytest.mark.parametrize(
    "extra", [["--focus", "words"], ["--finish", "5"], ["--start-from", "x"], ["--distil-from", "x"]]
)
def test_what_is_for_sdxl_alone_is_refused(extra: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--model", "clip", "--state", str(tmp_path), *extra])
    assert result.exit_code != 0
    assert extra[0] in str(result.exception)


def test_processes_that_would_write_over_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def two(_device: str) -> Iterator[Processes]:
        yield Processes(1, 2)

    monkeypatch.setattr("bottega.training.processes.joined", two)
    result = CliRunner().invoke(app, ["train", "--model", "clip", "--state", str(tmp_path)])
    assert result.exit_code != 0
    assert "start one process" in str(result.exception)
    assert not list(tmp_path.iterdir())
