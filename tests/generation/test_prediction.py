"""What a network predicts is measured: ε as shipped, v and flow by exact conversion of the same network's output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.generation.conftest import SETTINGS

from bottega.generation.engine import SDXLEngine
from bottega.generation.prediction import MeasuredPrediction, Network, measure_prediction_type
from bottega.generation.records import GenerationRequest, PredictionType
from bottega.models.identify import Statement
from bottega.runtime.errors import NonFiniteError

LAST = 999


def measure(network: Network) -> MeasuredPrediction:
    return measure_prediction_type(network, (4, 32, 32), timestep=LAST, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def last_level() -> tuple[float, float]:
    """α and σ of SDXL's schedule at its last timestep."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = float((1 - betas).prod())
    return bar**0.5, (1 - bar) ** 0.5


def converted(network: Network, kind: PredictionType, level: tuple[float, float]) -> Network:
    """A network that gives out v or flow, with x0 from the ε of the one given."""
    alpha, sigma = level

    def other(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        noise = network(x, timesteps)
        clean = (x - sigma * noise) / alpha
        return noise - clean if kind == "flow" else alpha * noise - sigma * clean

    return network if kind == "epsilon" else other


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_the_miniatures_network_is_known_in_each_form(
    engine: SDXLEngine, last_level: tuple[float, float], kind: PredictionType
) -> None:
    assert measure(converted(engine._unconditional(), kind, last_level)).prediction_type == kind


@pytest.mark.parametrize("deviation", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.068])
def test_ideal_networks_that_know_only_the_mean_picture_are_told_apart(deviation: float, alpha: float) -> None:
    """As a trained network: no noise says anything of the picture, so its guess is the mean of all."""
    mean = torch.nn.functional.interpolate(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(7)), size=32)
    mean = deviation * mean / mean.std()
    sigma = (1 - alpha**2) ** 0.5
    outputs: dict[PredictionType, Network] = {
        "epsilon": lambda x, _: (x - alpha * mean) / sigma,
        "v_prediction": lambda x, _: alpha * x - sigma * mean,
        "flow": lambda x, _: x - mean,
    }
    assert {kind: measure(network).prediction_type for kind, network in outputs.items()} == {k: k for k in outputs}


@pytest.mark.parametrize(
    ("kind", "correlation", "slope", "is_clear"),
    [
        ("epsilon", 0.992, 1.0, True),
        ("epsilon", 0.9805, 1.0, False),
        ("flow", 0.9795, 1.0, False),
        ("flow", 0.95, 1.05, True),
        ("flow", 0.6, 0.7, False),
        ("v_prediction", 0.8, 0.6, False),
        ("v_prediction", 0.98, 0.3, True),
    ],
)
def test_near_a_border_the_verdict_is_a_guess(
    kind: PredictionType, correlation: float, slope: float, is_clear: bool
) -> None:
    assert MeasuredPrediction(kind, correlation, slope).is_clear is is_clear


def test_an_output_of_zeros_is_v_not_nan() -> None:
    found = measure(lambda x, _: torch.zeros_like(x))
    assert (found.prediction_type, found.correlation, found.slope) == ("v_prediction", 0.0, 0.0)


def test_a_network_that_answers_nan_is_refused() -> None:
    with pytest.raises(NonFiniteError, match="received NaN or infinity"):
        measure(lambda x, _: x * torch.nan)


def test_a_wrong_label_is_told_and_what_was_measured_is_drawn(
    engine: SDXLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(engine.modules.identity, stated=(Statement("v_prediction", "the label"),))
    monkeypatch.setattr(engine.modules, "identity", wrong)
    request = GenerationRequest(prompt=SETTINGS.prompt, width=64, height=64, steps=2, guardrails="off")
    result = engine.generate(request).result
    assert result.settings.prediction_type == "epsilon"
    assert [finding.name for finding in result.findings] == ["prediction type mislabelled"]
    assert "the label says v_prediction" in result.findings[0].evidence
    insisting = engine.generate(request.model_copy(update={"prediction_type": "v_prediction"})).result
    assert insisting.settings.prediction_type == "v_prediction"
    assert "drawn as v_prediction" in insisting.findings[0].evidence
