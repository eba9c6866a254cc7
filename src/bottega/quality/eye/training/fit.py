"""Train the eye on measured examples: is the picture damaged, which cells are, and of what cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from bottega.quality.damage import CAUSES
from bottega.quality.eye.cells import GRID, NUM_OWN
from bottega.quality.eye.inputs import (
    NUM_CELL,
    NUM_PICTURE,
    OWN_CELL,
    OWN_PICTURE,
    PLACE_CELL,
    WHOLE_PICTURE,
    network_inputs,
)
from bottega.quality.eye.network import DISTANCE_FLOOR
from bottega.quality.eye.training.examples import GOOD, LEARNED_FAMILIES, TRY
from bottega.quality.eye.training.model import EyeNetwork
from bottega.quality.eye.training.store import ExampleStore, Indices
from bottega.runtime.files import atomic_path
from bottega.runtime.seeds import numpy_rng

GOOD_SHARE = 1 / 3
"""Of a batch. Of the examples a quarter is good; the claim is about a threshold on them."""

FAINT, FAINT_TARGET = 0.3, 0.85
"""Below this severity a picture need not be sure to be damaged: near mild, only who looks for it sees it."""

TRY_SHARE = 1 / 8
"""Of a batch, beside it, where there are a teacher's tries."""

CELL_WEIGHT, CAUSE_WEIGHT, DISTANCE_WEIGHT = 0.5, 0.2, 0.3

_CHUNK = 256  # examples whose inputs are made at once

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FitConfig:
    """steps, batch: of the training. learning_rate: the highest. seed: of weights and order.

    shift: deviation of the random shift of what is absolute, in its own deviations. drop: share of pictures of which it
    is hidden.
    """

    steps: int = 6000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    shift: float = 0.5
    drop: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class StepLosses:
    """Of one step: the picture's verdict, the cells', the causes', the distance's."""

    step: int
    picture: float
    cells: float
    causes: float
    distance: float


def fit(
    store: ExampleStore,
    config: FitConfig,
    *,
    left_out: frozenset[str] = frozenset(),
    report: Callable[[StepLosses], None] | None = None,
) -> EyeNetwork:
    """Train a network.

    Args:
        store: examples.
        config: of the training.
        left_out: families whose examples are not used, so that they can be claimed to be unseen.
        report: called after each step.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    rng = numpy_rng("eye fit", config.seed)
    network = EyeNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    inputs = _AllInputs.of(store)
    good = np.flatnonzero(store.is_good)
    tries = np.flatnonzero(store.family == TRY)
    bad = np.flatnonzero(~store.is_good & ~np.isin(store.family, [TRY, *sorted(left_out)]))
    num_good = round(config.batch * GOOD_SHARE)
    num_tries = round(config.batch * TRY_SHARE) if len(tries) else 0
    for step in range(config.steps):
        parts = [rng.choice(good, num_good), rng.choice(bad, config.batch - num_good)]
        if num_tries:
            parts.append(rng.choice(tries, num_tries))
        chosen = np.concatenate(parts)
        cells_in, picture_in = inputs.tensors(chosen)
        _vary_what_is_absolute(cells_in, picture_in, config, generator)
        cells, verdict = network(cells_in, picture_in)
        losses = _losses(store, chosen, cells, verdict)
        total = losses.picture + CELL_WEIGHT * losses.cells + CAUSE_WEIGHT * losses.causes
        total = total + DISTANCE_WEIGHT * losses.distance
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if report is not None:
            report(losses.of_step(step + 1))
    return network.eval()


def _vary_what_is_absolute(cells: Tensor, picture: Tensor, config: FitConfig, generator: torch.Generator) -> None:
    """Shift or hide, in place, what a picture is like by itself; how it is against content and style stays.

    One shift of each statistic for a whole picture: content and style would have shifted with it. Without this the
    network learns the look of made-up contents and accuses good photographs.
    """
    count = len(cells)
    shift = config.shift * torch.randn(count, NUM_OWN, generator=generator)
    kept = (torch.rand(count, 1, generator=generator) >= config.drop).float()
    cells[..., OWN_CELL] = (cells[..., OWN_CELL] + shift[:, None, None]) * kept[:, None, None]
    picture[:, OWN_PICTURE] = (picture[:, OWN_PICTURE] + shift) * kept
    whole = picture[:, WHOLE_PICTURE]
    whole_shift = config.shift * torch.randn(whole.shape, generator=generator)
    picture[:, WHOLE_PICTURE] = (whole + whole_shift) * kept
    places = (torch.rand(count, 1, 1, 1, generator=generator) >= config.drop).float()
    cells[..., PLACE_CELL] *= places


@dataclass(frozen=True)
class _AllInputs:
    """The network's inputs of all examples, in half precision: made for each batch they took a third of a step.

    cells: [N, G, G, NUM_CELL], 70 kB an example. picture: [N, NUM_PICTURE].
    """

    cells: npt.NDArray[np.float16]
    picture: Floats

    @classmethod
    def of(cls, store: ExampleStore) -> _AllInputs:
        count = len(store)
        cells = np.empty((count, GRID, GRID, NUM_CELL), np.float16)
        picture = np.empty((count, NUM_PICTURE), np.float32)
        for first in range(0, count, _CHUNK):
            part = np.arange(first, min(first + _CHUNK, count))
            inputs = network_inputs(store.measured(part))
            cells[part] = inputs.cells
            picture[part] = inputs.picture
        return cls(cells, picture)

    def tensors(self, chosen: Indices) -> tuple[Tensor, Tensor]:
        """Those of some examples."""
        cells = self.cells[chosen].astype(np.float32)
        return torch.from_numpy(cells), torch.from_numpy(self.picture[chosen])


@dataclass(frozen=True)
class _Losses:
    """Means over a batch, as in `StepLosses`."""

    picture: Tensor
    cells: Tensor
    causes: Tensor
    distance: Tensor

    def of_step(self, step: int) -> StepLosses:
        return StepLosses(step, self.picture.item(), self.cells.item(), self.causes.item(), self.distance.item())


def _losses(store: ExampleStore, chosen: Indices, cells: Tensor, verdict: Tensor) -> _Losses:
    family, severity = store.family[chosen], store.severity[chosen]
    is_try = family == TRY
    is_bad = (family != GOOD) & ~is_try
    target = is_bad.astype(np.float32)
    target[is_bad & (severity < FAINT)] = FAINT_TARGET
    target[is_try] = severity[is_try]
    # Where a teacher's try is damaged, and why, is not known.
    is_drawn = torch.from_numpy(~is_try)
    mask = torch.from_numpy(store.mask[chosen].astype(np.float32) / 255)
    cause = torch.from_numpy(cause_numbers(family[is_bad]))
    distance = store.distance[chosen]
    is_known = torch.from_numpy(np.isfinite(distance))
    log_distance = torch.from_numpy(np.log(distance + DISTANCE_FLOOR))
    estimate = verdict[:, 1][is_known]
    return _Losses(
        picture=functional.binary_cross_entropy_with_logits(verdict[:, 0], torch.from_numpy(target)),
        cells=functional.binary_cross_entropy_with_logits(cells[is_drawn], mask[is_drawn]),
        causes=functional.cross_entropy(verdict[torch.from_numpy(is_bad), 2:], cause),
        distance=functional.smooth_l1_loss(estimate, log_distance[is_known]) if len(estimate) else estimate.sum(),
    )


def cause_numbers(families: npt.NDArray[np.str_]) -> Indices:
    """Of each family the number of its cause in CAUSES, [N]."""
    return np.array([CAUSES.index(LEARNED_FAMILIES[str(family)].cause) for family in families], np.int64)


@torch.no_grad()
def verdicts(network: EyeNetwork, store: ExampleStore, chosen: Indices, batch: int = 256) -> npt.NDArray[np.float32]:
    """Of each example its logit of being damaged, the log of its distance, and the logits of causes, [N, 2 + C]."""
    found: list[Tensor] = []
    for first in range(0, len(chosen), batch):
        inputs = network_inputs(store.measured(chosen[first : first + batch]))
        found.append(network(torch.from_numpy(inputs.cells), torch.from_numpy(inputs.picture))[1])
    return torch.cat(found).numpy()


def export(network: EyeNetwork, path: Path) -> None:
    """Write the weights in half precision, as `bottega.quality.eye.network` reads them."""
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary)
