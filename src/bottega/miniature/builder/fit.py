"""One training loop for all models of the miniature: counted steps, warm-up, cosine to zero, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bottega.runtime.errors import NonFiniteError
from bottega.runtime.files import append_jsonl, atomic_path

Losses = Mapping[str, torch.Tensor]


def fit(
    folder: Path,
    name: str,
    modules: Mapping[str, torch.nn.Module],
    losses: Callable[[int], Losses],
    *,
    steps: int,
    learning_rate: float,
    warm_up: int = 100,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    save_every: int = 500,
    slow: Mapping[str, float] | None = None,
) -> None:
    """Minimise the sum of `losses(step)` over the modules' parameters for `steps` steps of AdamW.

    `slow` gives a factor on the learning rate to parameters whose name holds a word.
    `losses` draws its batch from the step's number alone, so a run that was stopped goes on as if it had not been.
    State lies in `folder/name.safetensors`, the log in `folder/name.jsonl`.
    """
    parameters = {
        f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters() if p.requires_grad
    }
    slowness = {n: next((f for part, f in (slow or {}).items() if part in n), 1.0) for n in parameters}
    groups = [
        {"params": [p for n, p in parameters.items() if slowness[n] == f], "slowness": f}
        for f in sorted(set(slowness.values()))
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    state = folder / f"{name}.safetensors"
    start = _load(state, modules, parameters, optimizer) if state.exists() else 0
    for module in modules.values():
        module.train()
    clock, since = time.monotonic(), start
    mean: dict[str, float] = {}
    for step in range(start, steps):
        rate = learning_rate * min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["slowness"]
        parts = losses(step)
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip)
        if not (torch.isfinite(total) and torch.isfinite(norm)):
            raise NonFiniteError(
                f"Training {name} needs finite losses and gradients; step {step} gave {float(total.detach())} "
                f"and {float(norm)}; lower learning_rate."
            )
        optimizer.step()
        for part, value in parts.items():
            mean[part] = mean.get(part, float(value.detach())) * 0.98 + float(value.detach()) * 0.02
        done = step + 1
        if done % 50 == 0 or done == steps:
            seconds = (time.monotonic() - clock) / (done - since)
            row = {
                "step": done,
                "steps": steps,
                "seconds_a_step": round(seconds, 4),
                "minutes_left": round(seconds * (steps - done) / 60, 1),
            }
            append_jsonl(folder / f"{name}.jsonl", [{**row, **{k: round(v, 5) for k, v in mean.items()}}])
        if done % save_every == 0 or done == steps:
            _save(state, modules, parameters, optimizer, done)
    for module in modules.values():
        module.eval()


def _save(
    path: Path,
    modules: Mapping[str, torch.nn.Module],
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    tensors = {
        f"model.{m}.{n}": t.detach().clone().contiguous()
        for m, module in modules.items()
        for n, t in module.state_dict().items()
    }
    for n, p in parameters.items():
        for key, value in optimizer.state[p].items():
            tensors[f"{key}.{n}"] = value.detach().clone().contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"step": json.dumps(step)})


def _load(
    path: Path,
    modules: Mapping[str, torch.nn.Module],
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    with safe_open(path, "pt") as file:
        step = int(json.loads(file.metadata()["step"]))
        for m, module in modules.items():
            module.load_state_dict({n: file.get_tensor(f"model.{m}.{n}") for n in module.state_dict()})
        for n, p in parameters.items():
            optimizer.state[p] = {key: file.get_tensor(f"{key}.{n}") for key in ("step", "exp_avg", "exp_avg_sq")}
    return step
