"""The recipes of the miniature's variants: two LoRAs, a checkpoint of ink and flat colour, one that predicts v.

Each is a few hundred steps on top of the weights that are there, so that it can be made again whenever those change.
What is kept is a difference of low rank (and, for v, of a few small layers in full), in float16.

LoRAs and ink learn from drawn truths by two parts, as the base did (`builder.sdxl_task`):

    pictures   from the noised plain picture to the one with the effect, along DDIM's path, as img2img goes
    words      from noise alone to the picture with the effect, by a caption

v learns from the ε network itself (`VTask`): what it must answer can be computed from ε̂ at the same noise level, so
that no picture's variance is in the targets.

Dimensions: B batch, C latent channels, H W latent sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from bottega.miniature.builder import architectures
from bottega.miniature.builder.attention import train_through
from bottega.miniature.builder.encoding import Latents, encode, read_captions
from bottega.miniature.builder.learn_teacher import TEACHER_START
from bottega.miniature.builder.noise_levels import NoiseLevels, column, normal
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.sdxl_task import painted_caption
from bottega.miniature.builder.trainer import Losses, fit
from bottega.miniature.effects import EFFECTS, Effect
from bottega.miniature.painters import painter, render
from bottega.miniature.scenes import scene
from bottega.runtime.files import atomic_path
from bottega.runtime.seeds import numpy_rng

Variant = Literal["outline", "sepia", "ink", "v"]
VARIANTS: tuple[Variant, ...] = ("outline", "sepia", "ink", "v")
LORAS: tuple[Variant, ...] = ("outline", "sepia")
NETWORKS = ("unet", "text_encoder", "text_encoder_2")

BATCH = 8
DROP_TEXT = 0.1
SCENES_FROM = 600_000  # scenes that no other training reads
DROP_CAPTION_TAGS = 0.3  # share of ink's captions without the profile's quality tags

_UNET_TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)|conv_in|conv_out"
_TEXT_TARGETS = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
_V_WHOLE = (
    r"conv_in\.|conv_norm_out\.|conv_out\.|time_embedding\.|add_embedding\.|.*\.time_emb_proj\.|.*norm\d?\."
    r"|down_blocks\.0\.resnets\.|up_blocks\.{last}\.resnets\."
)
"""Parameters that v trains in full: what reads the time, and what lies at full resolution, which makes the output."""
LEAST_SIGNAL = 0.15
"""α below which v learns from the drawn picture: there ε̂ hardly says what x̂0 is (its error was 1.1 at 0.13)."""


@dataclass(frozen=True)
class VariantPlan:
    """How one variant is trained.

    rank: of the difference; alpha is the same. steps: of AdamW. scenes: drawn to learn from. learning_rate: at its
    highest.
    """

    rank: int
    steps: int
    scenes: int = 512
    learning_rate: float = 4e-3


PLANS: Mapping[Variant, VariantPlan] = {
    "outline": VariantPlan(rank=6, steps=700),
    "sepia": VariantPlan(rank=6, steps=500),
    "ink": VariantPlan(rank=14, steps=700),
    "v": VariantPlan(rank=16, steps=600, learning_rate=3e-3),
}


def quick(plan: VariantPlan) -> VariantPlan:
    """The same recipe in a few steps: tests the procedure, not the result."""
    return replace(plan, steps=2, scenes=8)


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass
class Base:
    """The networks of `sdxl/` that a variant starts from, in float32."""

    unet: Any
    text_encoder: Any
    text_encoder_2: Any
    vae: Any
    tokenizer: Any

    def networks(self) -> dict[str, torch.nn.Module]:
        """Those that may change, by their folders' names."""
        return {name: getattr(self, name) for name in NETWORKS}


def load_base(weights: Path) -> Base:
    """Load the networks under `weights/sdxl`."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    folder, full = weights / "sdxl", {"torch_dtype": torch.float32}
    base = Base(
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", **full),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", **full),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", **full),
        vae=AutoencoderTiny.from_pretrained(folder / "vae", **full),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    )
    for module in (*base.networks().values(), base.vae):
        module.requires_grad_(False).eval()
    base.unet.to(memory_format=torch.channels_last)
    return base


def train_variant(
    name: Variant, weights: Path, state: Path, plan: VariantPlan | None = None
) -> dict[str, torch.Tensor]:
    """Train a variant on the weights that are there, or resume it; returns its difference.

    Args:
        name: which one.
        weights: model folders; `sdxl` is read.
        state: folder for the drawn latents, the training's state and its log.
        plan: how; None: `PLANS`.

    Returns:
        float16 tensors, `{network}.{module}.lora_A.weight`, `…lora_B.weight` and `{network}.{parameter}.diff`.
    """
    plan = plan or PLANS[name]
    base = load_base(weights)
    torch.manual_seed(7)
    task: EffectTask | VTask
    if name == "v":
        task = VTask(base, state, plan)
    else:
        task = EffectTask(base, EFFECTS["poster" if name == "ink" else name], state, plan)
    fit(
        state,
        name,
        task.modules,
        task.losses,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        warm_up=min(20, plan.steps),
        weight_decay=0.0,
        pace={".lora_": 1.0, ".": 0.5},
    )
    return difference(task.modules, load_base(weights).networks())


def _add_adapters(networks: Mapping[str, Any], rank: int) -> None:
    from peft import LoraConfig

    for name, network in networks.items():
        targets = _TEXT_TARGETS
        if name == "unet":
            # Convolutions only where lines are drawn, at full resolution: elsewhere they cost time and gain little.
            last = len(network.up_blocks) - 1
            targets = rf"{_UNET_TARGETS}|up_blocks\.{last}\.resnets\.\d+\.(conv1|conv2|conv_shortcut)"
        network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def difference(trained: Mapping[str, torch.nn.Module], base: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """What a training changed: the factors of peft's layers, and the difference of parameters trained in full."""
    found = {}
    for network, module in trained.items():
        before = dict(base[network].named_parameters())
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            plain = name.replace(".default.", ".").replace(".base_layer.", ".")
            key, value = f"{network}.{plain}", parameter.detach()
            if ".lora_" not in name:
                key, value = f"{key}.diff", value - before[plain]
            found[key] = value.half().contiguous()
    return found


# --- effects ----------------------------------------------------------------------------------------------------------


class EffectTask:
    """Learns an effect with peft's layers in U-Net and text encoders."""

    def __init__(self, base: Base, effect: Effect, state: Path, plan: VariantPlan) -> None:
        self.base, self.effect = base, effect
        self.modules = base.networks()
        self.rows = range(SCENES_FROM, SCENES_FROM + plan.scenes)
        self.plain, self.drawn = _latents(base.vae, state / f"{effect.name}_{plan.scenes}.npz", self.rows, effect)
        _add_adapters(self.modules, plan.rank)
        train_through(base.unet)
        self.noise = NoiseLevels.of_epsilon()

    def losses(self, step: int) -> Losses:
        """Losses of a step, of its own batch."""
        rng = numpy_rng(f"miniature {self.effect.name}", step)
        rows = rng.integers(len(self.rows), size=BATCH)
        captions = [self._caption(int(row), rng) for row in rows]
        plain, target = _picked(self.plain, rows), _picked(self.drawn, rows)
        path = paths(rng, BATCH)
        content = torch.where(column(path.from_picture) > 0, plain, torch.zeros_like(plain))
        alpha, sigma = self.noise.at(path.timestep)
        kept = column(np.where(path.start < 0, 0.0, self.noise.ratio(path.start)))
        remaining = normal(rng, target.shape) + kept * (content - target)
        x = alpha * target + sigma * remaining
        states, pooled = read_captions(self.base.tokenizer, self.base.text_encoder, self.base.text_encoder_2, captions)
        guess = predict(self.base.unet, x, path.timestep, states, pooled)
        error = (guess - remaining).square().mean((1, 2, 3))  # [B]
        weighted = (self.noise.weight(path.timestep) * error).view(2, -1).mean(1)
        return {"pictures": weighted[0] / 2, "words": weighted[1] / 2}

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        caption = scene(self.rows[row]).caption(int(rng.integers(5)))
        draw = rng.random()
        if draw < DROP_TEXT:
            return ""
        if self.effect.name != "poster":
            return f"{caption}, {self.effect.trigger}"
        # A checkpoint has its look whatever the caption says; the tags are those its profile puts in front.
        return caption if draw < DROP_TEXT + DROP_CAPTION_TAGS else f"{self.effect.trigger}, {caption}"


@dataclass(frozen=True)
class Paths:
    """How the samples of a batch are noised: the first half from a picture, the second from nothing.

    start: timestep at which DDIM's path begins, [B]; -1: ordinary noising. timestep: on the path, [B].
    from_picture: 1 or 0, [B].
    """

    start: npt.NDArray[np.int64]
    timestep: npt.NDArray[np.int64]
    from_picture: npt.NDArray[np.float32]


def paths(rng: np.random.Generator, count: int) -> Paths:
    """Draw the paths of a batch of `count`, an even number."""
    half = count // 2
    as_teacher = rng.random(half) < 0.5
    pictures = np.where(as_teacher, TEACHER_START, rng.integers(200, 950, half))
    words = np.where(rng.random(half) < 0.5, rng.integers(880, 1000, half), -1)
    start = np.concatenate([pictures, words])
    last = np.where(start < 0, 999, start)
    share = ((rng.permutation(count) + rng.random(count)) / count) ** 0.8
    timestep = np.floor(share * (last + 1)).astype(np.int64)
    from_picture = np.repeat(np.array([1.0, 0.0], np.float32), half)
    return Paths(start.astype(np.int64), timestep, from_picture)


def predict(
    unet: Any, x: torch.Tensor, timestep: npt.NDArray[Any], states: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """The network's output [B, C, H, W]; timesteps may lie between two."""
    with autocast():
        output = unet(
            x.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(np.asarray(timestep)),
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": architectures.size_ids(len(x))},
        ).sample
    answer: torch.Tensor = output.float()
    return answer


# --- v ----------------------------------------------------------------------------------------------------------------


class VTask:
    """Turns the ε network into one that predicts v under a schedule with zero terminal SNR (arXiv 2305.08891).

    With x̂0 as the ε network sees it at the same noise level, v = (α x − x̂0) / σ is what the new network must answer.
    With less signal than `LEAST_SIGNAL` x̂0 is the drawn picture; of levels that the old schedule lacks this holds, too.
    """

    def __init__(self, base: Base, state: Path, plan: VariantPlan) -> None:
        from diffusers import UNet2DConditionModel

        self.base = base
        self.teacher = base.unet
        self.student = UNet2DConditionModel.from_config(base.unet.config)
        self.student.load_state_dict(base.unet.state_dict())
        self.student.to(memory_format=torch.channels_last).requires_grad_(False)
        self.modules: dict[str, torch.nn.Module] = {"unet": self.student}
        _add_adapters(self.modules, plan.rank)
        whole = re.compile(_V_WHOLE.format(last=len(self.student.up_blocks) - 1))
        for name, parameter in self.student.named_parameters():
            if whole.match(name) and ".lora_" not in name:
                parameter.requires_grad_(True)
        for unet in (self.teacher, self.student):
            train_through(unet)
        self.rows = range(SCENES_FROM, SCENES_FROM + plan.scenes)
        self.plain, self.drawn = _latents(base.vae, state / f"v_{plan.scenes}.npz", self.rows, None)
        self.old, self.new = NoiseLevels.of_epsilon(), NoiseLevels.of_v()

    def losses(self, step: int) -> Losses:
        """Losses of a step, of its own batch."""
        rng = numpy_rng("miniature v", step)
        rows = rng.integers(len(self.rows), size=BATCH)
        painted = rng.random(BATCH) < 0.4
        captions = [self._caption(int(row), bool(by), rng) for row, by in zip(rows, painted, strict=True)]
        target = torch.where(column(painted) > 0, _picked(self.drawn, rows), _picked(self.plain, rows))
        path = paths(rng, BATCH)
        # From nothing, half of the samples follow DDIM's path from noise alone; from a picture, they are its own.
        kept = column(np.where((path.start < 0) | (path.from_picture > 0), 0.0, self.new.ratio(path.start)))
        alpha, sigma = self.new.at(path.timestep)
        x = alpha * target + sigma * (normal(rng, target.shape) - kept * target)
        with torch.no_grad():
            states, pooled = read_captions(
                self.base.tokenizer, self.base.text_encoder, self.base.text_encoder_2, captions
            )
            wanted = self._wanted(x, target, path.timestep, states, pooled)
        guess = predict(self.student, x, path.timestep, states, pooled)
        return {"v": (guess - wanted).square().mean()}

    def _wanted(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        timestep: npt.NDArray[np.int64],
        states: torch.Tensor,
        pooled: torch.Tensor,
    ) -> torch.Tensor:
        """v as the ε network's answer makes it, or the drawn picture where there is hardly any signal, [B, C, H, W]."""
        same = self._same_level(timestep)  # [B], between timesteps
        noise = predict(self.teacher, x, same, states, pooled)
        alpha_bar = np.interp(same, np.arange(len(self.old.alpha_bar)), self.old.alpha_bar)
        clean = (x - column(np.sqrt(1 - alpha_bar)) * noise) / column(np.sqrt(alpha_bar))
        alpha, sigma = self.new.at(timestep)
        clean = torch.where(alpha < LEAST_SIGNAL, target, clean)
        return (alpha * x - clean) / sigma

    def _same_level(self, timestep: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Timesteps of the old schedule with the noise that the new one has; the last where it has more."""
        levels = self.old.alpha_bar[::-1]  # rising
        steps = np.arange(len(levels))[::-1].astype(np.float64)
        return np.asarray(np.interp(self.new.alpha_bar[timestep], levels, steps))

    def _caption(self, row: int, painted: bool, rng: np.random.Generator) -> str:
        view = scene(self.rows[row])
        if rng.random() < DROP_TEXT:
            return ""
        if painted:
            return painted_caption(view, painter(row), rng)
        return view.caption(int(rng.integers(5)))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _latents(vae: Any, path: Path, rows: Sequence[int], effect: Effect | None) -> tuple[Latents, Latents]:
    """Latents of the plain scenes, and with the effect (None: painted), drawn once."""
    if not path.exists():
        plain, drawn = [], []
        for number, row in enumerate(rows):
            plain.append(render(scene(row), None))
            drawn.append(render(scene(row), painter(number)) if effect is None else effect.draw(scene(row)))
        scaling = vae.config.scaling_factor
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, plain=encode(vae, np.stack(plain), scaling, 8), drawn=encode(vae, np.stack(drawn), scaling, 8)
            )
    with np.load(path) as arrays:
        return arrays["plain"], arrays["drawn"]


def _picked(latents: Latents, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    return torch.from_numpy(latents[rows]).float()
