"""The build trains every model, goes on after a stop as if it had not stopped, and packs folders that load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bottega.miniature.builder.build import QUICK, build
from bottega.miniature.builder.corpus import Corpus, draw_corpus
from bottega.miniature.builder.gates import BARS
from bottega.miniature.builder.pack import FOLDERS
from bottega.miniature.builder.trainer import fit
from bottega.runtime.errors import NonFiniteError


def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    def train(folder: Path, stops: list[int]) -> torch.Tensor:
        folder.mkdir()
        for stop in stops:
            torch.manual_seed(0)
            layer = torch.nn.Linear(4, 1)

            def losses(step: int, layer: torch.nn.Linear = layer, stop: int = stop) -> dict[str, torch.Tensor]:
                if step >= stop:
                    raise KeyboardInterrupt
                x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
                return {"mse": (layer(x) - x.sum(1, keepdim=True)).square().mean()}

            try:
                fit(folder, "line", {"layer": layer}, losses, steps=20, learning_rate=0.1, warm_up=2)
            except KeyboardInterrupt:
                pass
        return layer.weight.detach()

    assert torch.equal(train(tmp_path / "a", [99]), train(tmp_path / "b", [7, 13, 99]))


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="step 0"):
        fit(
            tmp_path,
            "bad",
            {"layer": layer},
            lambda _: {"mse": layer(torch.full((1, 2), float("nan"))).mean()},
            steps=3,
            learning_rate=0.1,
        )
    assert torch.equal(layer.weight, before)


def test_slow_parameters_move_by_their_share_of_the_rate(tmp_path: Path) -> None:
    first, second = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    before = [layer.weight.detach().clone() for layer in (first, second)]
    fit(
        tmp_path,
        "slow",
        {"first": first, "second": second},
        lambda _: {"sum": first.weight.sum() + second.weight.sum()},
        steps=1,
        learning_rate=0.1,
        warm_up=1,
        weight_decay=0.0,
        pace={"second": 0.25},
    )
    moved = [abs(float(layer.weight.detach() - b)) for layer, b in zip((first, second), before, strict=True)]
    assert moved == pytest.approx([0.1, 0.025], rel=1e-3)  # Adam's first step is the rate itself


def test_a_sibling_is_another_painting_by_the_same_painter() -> None:
    rows = torch.zeros(20, 1, 1, 3, dtype=torch.uint8).numpy()
    corpus = Corpus(rows, rows, rows[..., 0], 0, 0, 6)
    for i in range(20):
        for draw in range(9):
            other = corpus.sibling(i, draw)
            assert other != i
            assert other < 20
            assert corpus.painter_of(other) == corpus.painter_of(i)


def test_the_corpus_is_drawn_once(tmp_path: Path) -> None:
    draw_corpus(tmp_path, 4, painters=2, workers=1)
    stamps = [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]
    draw_corpus(tmp_path, 4, painters=2, workers=1)
    assert stamps == [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]


@pytest.mark.filterwarnings("default")
def test_a_quick_build_makes_every_folder_and_measures_every_gate(tmp_path: Path) -> None:
    report = build(tmp_path / "work", tmp_path / "weights", QUICK)
    without_variants = {name for name in BARS if not name.startswith(("ink_", "sepia_", "checkpoint_"))}
    assert set(report.bars) == without_variants
    assert set(report.bars) <= set(report.gates)
    for name in FOLDERS:
        assert (tmp_path / "weights" / name / "README.md").exists()
        assert list((tmp_path / "weights" / name).rglob("*.safetensors"))
