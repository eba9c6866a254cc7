"""Claim: what a network predicts is measured right, whatever its label says: ε, v and flow, in fp32 and bf16.

python benchmarks/prediction_type.py [--full] [--json]

Five networks on the miniature's SDXL:

    ε            the U-Net that is shipped
    v, flow      the same U-Net with its output converted exactly: v = α ε̂ − σ x̂0 and ε̂ − x̂0, with x̂0 from ε̂
    v, flow      the same U-Net trained on with that objective, by the miniature's own training code

A rectified flow is asked at noise levels of its own; the converted one asks the U-Net at the timestep with the same
ratio of noise to signal, and scales its input to it. Each network is put into a folder with every label there is, right
and wrong, and opened as an engine in both precisions. The engine must measure the right type, draw with it, and tell of
a label exactly where that is wrong. What it decides on, correlation and slope, is printed, with the borders that would
lie midway between the kinds. The peer is the label: how often it is right, by construction, is one time in three.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.bench import Arguments, conclude, say, verdict
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

import bottega
from bottega.diffusion.schedule import from_scheduler_config
from bottega.generation import prediction
from bottega.generation.engine import SDXLEngine
from bottega.generation.modules import Modules, load_modules
from bottega.generation.prediction import MeasuredPrediction
from bottega.generation.records import GenerationRequest, PredictionType

MODELS = Path(bottega.__file__).parent / "miniature/weights"
LABELS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "flow": "flow_prediction"}
"""By what is measured: as a scheduler's configuration spells it."""

DTYPES = ("float32", "bfloat16")
PAINTERS = 64  # pictures that a network is trained on, each plain and painted
BATCH = 4
LEAST_MARGIN = 0.15
"""Between a slope and its border."""

LEAST_FACTOR = 1.5
"""Between what the input does not explain of a network's output, 1 − r², and the border's."""


def noise_schedule() -> tuple[torch.Tensor, torch.Tensor]:
    """α and σ [T] of the miniature's training."""
    config = json.loads((MODELS / "sdxl/scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    alpha_bar = torch.from_numpy(from_scheduler_config(config).alpha_bar)
    return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()


class Converted(UNet2DConditionModel):
    """The shipped ε U-Net that gives out what another kind of network would."""

    kind: PredictionType = "epsilon"

    def forward(self, sample: torch.Tensor, timestep: Any, *args: Any, **options: Any) -> Any:
        """As of UNet2DConditionModel, [B, C, h, w]."""
        x = sample.float()
        moments = torch.as_tensor(timestep).reshape(-1).expand(len(x)).float()
        alphas, sigmas = noise_schedule()
        if self.kind == "flow":
            share = (moments / 1000).view(-1, 1, 1, 1)
            wanted = share / (1 - share)
            own = (sigmas / alphas - wanted.view(-1, 1)).abs().argmin(1)  # the timestep with the nearest ratio
            alpha, sigma = alphas[own].view(-1, 1, 1, 1), sigmas[own].view(-1, 1, 1, 1)
            x = x * (sigma / share)
        else:
            own = moments.long()
            alpha, sigma = alphas[own].view(-1, 1, 1, 1), sigmas[own].view(-1, 1, 1, 1)
        options["return_dict"] = False
        noise = super().forward(x.to(sample.dtype), own, *args, **options)[0].float()
        clean = (x - sigma * noise) / alpha
        output = noise - clean if self.kind == "flow" else alpha * noise - sigma * clean
        return UNet2DConditionOutput(sample=output.to(sample.dtype))


@dataclass(frozen=True)
class Network:
    """One of the five: its weights, and whether its output is converted."""

    name: str
    kind: PredictionType
    weights: Mapping[str, torch.Tensor]
    is_converted: bool = False

    def put_into(self, unet: Any) -> Any:
        """A U-Net of the same configuration, dtype and device that is this network."""
        if not self.is_converted:
            unet.load_state_dict(self.weights)
            return unet
        converted = Converted.from_config(unet.config)
        converted.kind = self.kind
        converted.load_state_dict(self.weights)
        return converted.to(dtype=unet.dtype).eval().requires_grad_(False)


# --- real networks --------------------------------------------------------------------------------------------------


class Latents:
    """Latents and captions of a few drawn scenes, for a short training."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel

        from bottega.miniature.builder.features import Features
        from bottega.models.loading import load_transformers

        self.modules = load_modules(str(MODELS / "sdxl"), device="cpu", dtype="float32")
        clip = load_transformers(CLIPModel, MODELS / "clip", torch.float32)
        self.features = Features(folder, self.modules.vae, clip, painters=PAINTERS)
        self.features.require(1)
        self.states, self.pooled = self._captions()

    @torch.no_grad()
    def _captions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """States [N + 1, L, D] and pooled [N + 1, P] of all captions; the last row is the empty one, zeros."""
        from bottega.miniature.scenes import scene

        pipeline = SDXLEngine(self.modules).txt2img
        captions = [scene(row).caption(0) for row in range(PAINTERS)]
        states, _, pooled, _ = pipeline.encode_prompt(
            captions, device=torch.device("cpu"), do_classifier_free_guidance=False
        )
        return (
            torch.cat([states, torch.zeros_like(states[:1])]),
            torch.cat([pooled, torch.zeros_like(pooled[:1])]),
        )

    def batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents [B, C, h, w], states and pooled; half of them without a caption."""
        rows = rng.integers(PAINTERS, size=BATCH)
        painted = rng.random(BATCH) < 0.5
        pictures = np.where(painted[:, None, None, None], self.features.painted[0][rows], self.features.plain[0][rows])
        told = np.where(rng.random(BATCH) < 0.5, rows, PAINTERS)
        return torch.from_numpy(pictures).float(), self.states[told], self.pooled[told]


def trained(kind: PredictionType, latents: Latents, folder: Path, steps: int) -> Network:
    """The shipped U-Net after so many steps with another objective."""
    from bottega.miniature.builder import architectures
    from bottega.miniature.builder.trainer import Losses, fit
    from bottega.models.loading import load_diffusers
    from bottega.runtime.seeds import numpy_rng

    unet = load_diffusers(UNet2DConditionModel, MODELS / "sdxl/unet", torch.float32)
    unet.requires_grad_(True)
    alphas, sigmas = noise_schedule()
    sizes = architectures.size_ids(BATCH)

    def losses(step: int) -> Losses:
        rng = numpy_rng(f"prediction type {kind}", step)
        clean, states, pooled = latents.batch(rng)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        # One of each quarter of the noise levels: a short training sees all of them.
        shares = (np.arange(BATCH) + rng.random(BATCH)) / BATCH
        if kind == "flow":
            moments = torch.from_numpy(shares * 1000).float()
            level = (moments / 1000).view(-1, 1, 1, 1)
            x, wanted = (1 - level) * clean + level * noise, noise - clean
        else:
            moments = torch.from_numpy(np.floor(shares * 1000)).long()
            alpha, sigma = alphas[moments].view(-1, 1, 1, 1), sigmas[moments].view(-1, 1, 1, 1)
            x, wanted = alpha * clean + sigma * noise, alpha * noise - sigma * clean
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        guess = unet(x, moments, encoder_hidden_states=states, added_cond_kwargs=conditions).sample
        return {"mse": (guess - wanted).square().mean()}

    fit(folder, kind, {"unet": unet}, losses, steps=steps, learning_rate=1e-3, warm_up=min(20, steps // 4))
    return Network(f"{kind}, trained", kind, {name: value.detach() for name, value in unet.state_dict().items()})


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled_folder(folder: Path, label: str) -> Path:
    """The miniature's SDXL under a label of our choice."""
    labelled = folder / label
    shutil.copytree(MODELS / "sdxl", labelled)
    config = labelled / "scheduler/scheduler_config.json"
    known = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**known, "prediction_type": label}), encoding="utf-8")
    return labelled


def judge(network: Network, modules: Modules, plain: Any, label: str) -> tuple[MeasuredPrediction, list[str]]:
    """What the engine measures, and what it gets wrong; `plain` is the U-Net that was loaded with the modules."""
    modules.parts["unet"] = network.put_into(plain)
    engine = SDXLEngine(modules)
    request = GenerationRequest(
        prompt="a red circle", width=64, height=64, steps=2, seed=1, sampler="euler", guardrails="off"
    )
    result = engine.generate(request).result
    told = [finding.name for finding in result.findings] == ["prediction type mislabelled"]
    where = f"{network.name}, labelled {label}, {modules.dtype}"
    wrong = []
    if engine.measured.prediction_type != network.kind:
        wrong.append(f"{where}: measured {engine.measured}")
    if result.settings.prediction_type != network.kind:
        wrong.append(f"{where}: drawn as {result.settings.prediction_type}")
    if told != (label != network.kind):
        wrong.append(f"{where}: a wrong label was {'told' if told else 'not told'}")
    return engine.measured, wrong


def borders(seen: Mapping[str, Sequence[MeasuredPrediction]]) -> dict[str, float]:
    """Borders midway between the kinds, and how far the nearest network is from those that are used."""
    slopes = {kind: [one.slope for one in values] for kind, values in seen.items()}
    unexplained = {kind: [1 - one.correlation**2 for one in values] for kind, values in seen.items()}
    least_flow, most_epsilon = min(unexplained["flow"]), max(unexplained["epsilon"])
    highest_v, lowest_other = max(slopes["v_prediction"]), min(*slopes["epsilon"], *slopes["flow"])
    used = 1 - prediction.EPSILON_FROM**2
    return {
        "epsilon_from": prediction.EPSILON_FROM,
        "epsilon_from_midway": round((1 - (least_flow * most_epsilon) ** 0.5) ** 0.5, 4),
        "factor": round(min(least_flow / used, used / most_epsilon), 2),
        "slope_from": prediction.SLOPE_FROM,
        "slope_from_midway": round((highest_v + lowest_other) / 2, 3),
        "margin": round(min(lowest_other - prediction.SLOPE_FROM, prediction.SLOPE_FROM - highest_v), 3),
    }


def _numbers(measured: Mapping[str, Mapping[str, MeasuredPrediction]], name: str) -> dict[str, dict[str, float]]:
    rounded = {}
    for network, values in measured.items():
        rounded[network] = {dtype: round(getattr(one, name), 4) for dtype, one in values.items()}
    return rounded


def main() -> int:
    """Judge five networks under three labels in two precisions; exit code 1 where one verdict is wrong."""
    parser = Arguments(__doc__)
    parser.add_size("--steps", short=160, full=600, help="of each training")
    asked = parser.parse()
    shipped = load_modules(str(MODELS / "sdxl"), device="cpu", dtype="float32").network.state_dict()
    networks = [
        Network("epsilon, shipped", "epsilon", shipped),
        Network("v_prediction, converted", "v_prediction", shipped, is_converted=True),
        Network("flow, converted", "flow", shipped, is_converted=True),
    ]
    wrong: list[str] = []
    measured: dict[str, dict[str, MeasuredPrediction]] = {}
    with tempfile.TemporaryDirectory(prefix="bottega-prediction-type-") as temporary:
        folder = Path(temporary)
        latents = Latents(folder / "features")
        say(f"{PAINTERS} pictures are drawn and encoded")
        for kind in ("v_prediction", "flow"):
            networks.append(trained(kind, latents, folder / "training", asked.steps))
            say(f"{kind} is trained for {asked.steps} steps")
        for label in LABELS:
            labelled = labelled_folder(folder, LABELS[label])
            for dtype in DTYPES:
                modules = load_modules(str(labelled), device="cpu", dtype=dtype)
                plain = modules.network
                for network in networks:
                    found, faults = judge(network, modules, plain, label)
                    measured.setdefault(network.name, {})[dtype] = found
                    wrong += faults
            say(f"labelled {label}: {len(wrong)} wrong so far")

    seen: dict[str, list[MeasuredPrediction]] = {}
    for network in networks:
        seen.setdefault(network.kind, []).extend(measured[network.name].values())
    found_borders = borders(seen)
    is_clear = found_borders["factor"] >= LEAST_FACTOR and found_borders["margin"] >= LEAST_MARGIN
    verdicts = len(networks) * len(DTYPES) * len(LABELS)
    result = {
        "held": not wrong and is_clear,
        "verdicts": verdicts,
        "wrong": wrong,
        "correlations": _numbers(measured, "correlation"),
        "slopes": _numbers(measured, "slope"),
        "borders": found_borders,
        "training_steps": asked.steps,
    }
    lines = [*wrong[:10]]
    for name, values in measured.items():
        numbers = (f"{dtype} {one.correlation:.3f} and {one.slope:.3f}" for dtype, one in values.items())
        lines.append(f"{name:24} correlation and slope {', '.join(numbers)}")
    lines += [
        f"{verdicts} verdicts, {len(wrong)} faults; the labels are right in {verdicts // 3}  {verdict(not wrong)}",
        f"borders: correlation {prediction.EPSILON_FROM:g} (midway {found_borders['epsilon_from_midway']:g}), "
        f"slope {prediction.SLOPE_FROM:g} (midway {found_borders['slope_from_midway']:g}); the nearest network is a "
        f"factor {found_borders['factor']:g} and {found_borders['margin']:g} away; at least {LEAST_FACTOR:g} and "
        f"{LEAST_MARGIN:g}  {verdict(is_clear)}",
    ]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
