"""A step that is not finite is traced to the first module, written down, and comes out the same when computed again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bottega.runtime.errors import FingerprintError, MissingError, NonFiniteError, RequestError, StorageError
from bottega.runtime.seeds import torch_generator
from bottega.training.loop import train
from bottega.training.replay import examine, read_facts, replay
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload

from .test_loop import CONFIG, Line


class Root(nn.Module):
    """√|x|, whose gradient at 0 is infinite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs().sqrt()


class Exponential(nn.Module):
    """exp(x), which overflows above 88."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


class TwoNetworks(Workload):
    """A trained head on a frozen trunk, six samples a step in parts of two; `data` may change the samples of a step."""

    def __init__(self, middle: nn.Module, data: Any = lambda step, x: x) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).requires_grad_(False)
            self.module = nn.Sequential(nn.Linear(4, 8, bias=False), middle, nn.Linear(8, 1))
        self.fingerprint = {"width": 4}
        self.data = data

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "weight_decay": 0.0, "lr_multiplier": 1.0}]

    def modules(self) -> list[tuple[str, nn.Module]]:
        return [("head", self.module), ("trunk", self.trunk)]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        x = self.data(step, torch.randn(6, 4, generator=torch_generator("two", step)))
        for k in (0, 2, 4)[share]:
            with torch.no_grad():
                hidden = self.trunk(x[k : k + 2])
            losses = self.module(hidden).square().mean(dim=1)
            ids = [f"s{6 * step + i}" for i in (k, k + 1)]
            yield Microbatch(losses.sum() / 6, losses, ids, [k, k + 1], ["main", "other"])


def poisoned(step: int, x: torch.Tensor) -> torch.Tensor:
    """Sample 3 of the third step holds a NaN."""
    if step == 2:
        x[3, 0] = math.nan
    return x


def silent(step: int, x: torch.Tensor) -> torch.Tensor:
    """Samples 2 and 3 of the third step are exactly what the trunk turns into zero."""
    if step == 2:
        x[2:4] = 0
    return x


def test_the_first_module_is_named_and_why(tmp_path: Path) -> None:
    broken, overflowing, rooted = (
        TwoNetworks(nn.GELU()),
        TwoNetworks(Exponential()),
        TwoNetworks(Root(), silent),
    )
    with torch.no_grad():
        broken.trunk[0].weight[1, 1] = math.nan
        overflowing.module[0].weight[:] = 1e3
        rooted.trunk[0].bias.zero_()
    expected = [
        (broken, "first: trunk.0 (its own parameters are not finite)"),
        (TwoNetworks(nn.GELU(), poisoned), "first: trunk.0 (what it receives is not finite already)"),
        (overflowing, "first: head.1 (what it returns is not finite, what it receives is)"),
        (
            rooted,
            "first: head.0 (the gradient that comes back to it is not finite), in the microbatch with s14 at t=2, s15",
        ),
    ]
    for number, (work, told) in enumerate(expected):
        with pytest.raises(NonFiniteError) as caught:
            train(work, CONFIG, tmp_path / str(number))
        assert told in str(caught.value)


def test_the_step_is_written_with_the_parameters_before_it_and_all_that_names_its_samples(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"step 3: .* \(s15 at t=3\).* replay/step_00000003\.safetensors .* for --replay"
    ):
        train(TwoNetworks(nn.GELU(), poisoned), CONFIG, tmp_path)
    file = tmp_path / "replay" / "step_00000003.safetensors"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    facts = read_facts(file)
    assert facts["step"] == 3 and facts["fingerprint"] == {"width": 4} and facts["first_module"] == "trunk.0"
    assert facts["sample_ids"] == [f"s{i}" for i in range(12, 18)] and facts["suspects"] == [3]
    assert facts["timesteps"] == list(range(6)) and facts["tasks"] == ["main", "other"] * 3
    assert [math.isfinite(loss) for loss in facts["losses"]] == [True] * 3 + [False] + [True] * 2
    sound = TwoNetworks(nn.GELU())
    train(sound, CONFIG, tmp_path / "sound", until=2)
    written = load_file(file)
    assert written.keys() == sound.module.state_dict().keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in sound.module.state_dict().items())


@pytest.mark.parametrize("middle", [nn.GELU, Exponential])
def test_a_replayed_step_has_the_same_losses_to_the_bit_and_says_which_are_not_finite(
    tmp_path: Path, middle: type[nn.Module]
) -> None:
    with pytest.raises(NonFiniteError):
        train(TwoNetworks(middle(), poisoned), CONFIG, tmp_path)
    file = tmp_path / "replay" / "step_00000003.safetensors"
    work = TwoNetworks(middle(), poisoned)
    seen = replay(work, file)
    facts = read_facts(file)
    assert list(map(str, seen.losses)) == list(map(str, facts["losses"]))
    assert (seen.step, seen.suspects, seen.first_module, seen.cause) == tuple(
        facts[name] for name in ("step", "suspects", "first_module", "cause")
    )
    lines = str(seen).splitlines()
    assert [line for line in lines if line.endswith("not finite")] == ["  s15  t=3  other  loss nan  not finite"]
    assert lines[-1].startswith("first: trunk.0") and len(lines) == 8
    assert all(parameter.grad is None for parameter in work.module.parameters())


def test_a_mended_step_is_said_to_be_finite(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        train(TwoNetworks(nn.GELU(), poisoned), CONFIG, tmp_path)
    seen = replay(TwoNetworks(nn.GELU()), tmp_path / "replay" / "step_00000003.safetensors")
    assert not seen.suspects and "everything is finite" in str(seen)


def test_a_fault_that_does_not_come_again_is_laid_on_the_device(tmp_path: Path) -> None:
    times: list[int] = []

    def once(step: int, x: torch.Tensor) -> torch.Tensor:
        times.append(step)
        return poisoned(step, x) if times.count(2) == 1 else x

    with pytest.raises(NonFiniteError, match=r"finite: .* the device does not give the same numbers twice"):
        train(TwoNetworks(nn.GELU(), once), CONFIG, tmp_path)


def test_a_step_is_examined_without_a_trace() -> None:
    work = TwoNetworks(nn.GELU(), poisoned)
    before = {name: tensor.clone() for name, tensor in work.module.state_dict().items()}
    assert examine(work, 1).suspects == [] and examine(work, 2).suspects == [3]
    assert all(torch.equal(tensor, before[name]) for name, tensor in work.module.state_dict().items())
    assert not any(module._forward_hooks for _, network in work.modules() for module in network.modules())
    assert [name for name, _ in Line().modules()] == [""]


def test_where_the_step_cannot_be_written_its_own_error_is_still_told(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("a file in the way")
    with pytest.raises(
        NonFiniteError, match=r"step 3: .*could not be written for replay \(cannot write .*not a folder"
    ):
        train(TwoNetworks(nn.GELU(), poisoned), CONFIG, tmp_path)


def test_what_is_no_step_of_this_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        train(TwoNetworks(nn.GELU(), poisoned), CONFIG, tmp_path)
    file = tmp_path / "replay" / "step_00000003.safetensors"
    with pytest.raises(MissingError, match="folder replay/"):
        replay(TwoNetworks(nn.GELU()), tmp_path / "replay" / "step_00000004.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StorageError, match="copy it again"):
        replay(TwoNetworks(nn.GELU()), torn)
    for metadata in (None, {"bottega": '{"format": "bottega-style-adapter"}'}):
        save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(RequestError, match="name a file in a run's folder replay/"):
            replay(TwoNetworks(nn.GELU()), tmp_path / "other.safetensors")
    wider = TwoNetworks(nn.GELU())
    wider.fingerprint = {"width": 5}
    with pytest.raises(FingerprintError, match="width was 4 when step_00000003"):
        replay(wider, file)

    class Renamed(TwoNetworks):
        def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
            for part in super().microbatches(step, share):
                part.sample_ids = [f"new-{name}" for name in part.sample_ids]
                yield part

    with pytest.raises(RequestError, match=r"other samples now \(new-s12, .*than then \(s12"):
        replay(Renamed(nn.GELU()), file)
