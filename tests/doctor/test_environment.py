"""What a machine has and lacks: judged on machines of every kind, read on this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bottega.doctor.environment import Disk, Gpu, Machine, Package, RecipeNeed, Torch, examine, read_machine
from bottega.runtime.findings import Severity

TORCH = Torch(
    version="2.8.0",
    cuda="12.6",
    hip=None,
    sees_gpu=True,
    architectures=("sm_80", "sm_90"),
    cpu_capability="AVX2",
    bfloat16_on_cpu=False,
    threads=8,
    attention=("torch's own (flash)",),
)
MACHINE = Machine(
    python="3.11.7",
    system="Linux x86_64",
    cores=8,
    memory=64.0,
    free_memory=48.0,
    torch=TORCH,
    torch_error="",
    gpus=(Gpu("NVIDIA H100", 80.0, "9.0"),),
    driver="560.35",
    disks=(Disk("model cache", Path("/data/hub"), 500.0, True), Disk("runs", Path("runs"), 500.0, True)),
    unmet=(),
    requirements_known=True,
    untested=(),
)
HEALTHY_NEED = RecipeNeed("miniature", ())
CPU_TORCH = replace(TORCH, cuda=None, sees_gpu=False, architectures=())


def test_a_healthy_machine_has_no_finding_and_nothing_unjudged() -> None:
    answer = examine(MACHINE, [HEALTHY_NEED])
    assert (answer.findings, answer.not_judged, answer.exit_code) == ((), (), 0)
    assert answer.facts["recipes that can run"] == ["miniature"]
    assert answer.facts["gpu"] == ["NVIDIA H100, 80 GB"]


@pytest.mark.parametrize(
    ("machine", "name", "severity", "command"),
    [
        (replace(MACHINE, torch=CPU_TORCH), "torch without GPU support", Severity.ERROR, "/whl/cu126"),
        (
            replace(MACHINE, torch=replace(TORCH, sees_gpu=False)),
            "torch does not see the GPU",
            Severity.ERROR,
            "unset CUDA_VISIBLE_DEVICES",
        ),
        (
            replace(MACHINE, torch=None, torch_error="libcudart.so.12: no such file"),
            "torch does not load",
            Severity.ERROR,
            "pip install --force-reinstall torch",
        ),
        (
            replace(MACHINE, gpus=(Gpu("NVIDIA B200", 180.0, "10.0"),)),
            "torch has no code for the GPU",
            Severity.ERROR,
            "pip install --upgrade torch",
        ),
        (
            replace(MACHINE, gpus=(Gpu("Tesla T4", 16.0, "7.5"),), torch=replace(TORCH, architectures=("sm_75",))),
            "GPU without bfloat16",
            Severity.INFO,
            None,
        ),
        (
            replace(MACHINE, unmet=(Package("diffusers", ">=0.35", "0.30.0"),)),
            "package does not fit",
            Severity.ERROR,
            "pip install 'diffusers>=0.35'",
        ),
        (
            replace(MACHINE, unmet=(Package("peft", ">=0.17", None),)),
            "package does not fit",
            Severity.ERROR,
            "pip install 'peft>=0.17'",
        ),
        (
            replace(MACHINE, untested=(Package("torch", "2.13.0", "2.8.0"),), constraints=Path("constraints.txt")),
            "versions not tested",
            Severity.INFO,
            "pip install -c constraints.txt torch",
        ),
        (replace(MACHINE, free_memory=1.2), "little memory", Severity.WARNING, "ps -eo"),
        (
            replace(MACHINE, disks=(Disk("runs", Path("my runs"), 0.4, True),)),
            "little disk space",
            Severity.ERROR,
            "du -xh --max-depth=1 'my runs'",
        ),
        (
            replace(MACHINE, disks=(Disk("runs", Path("runs"), 5.0, True),)),
            "little disk space",
            Severity.WARNING,
            "du -xh",
        ),
        (
            replace(MACHINE, disks=(Disk("model cache", Path("/data/hub"), 500.0, False),)),
            "folder may not be written",
            Severity.ERROR,
            "/data/hub && chmod -R u+rwX /data/hub",
        ),
        (replace(MACHINE, cores=2), "more threads than cores", Severity.WARNING, "export OMP_NUM_THREADS=2"),
    ],
)
def test_each_fault_is_found_alone_and_has_its_command(
    machine: Machine, name: str, severity: Severity, command: str | None
) -> None:
    (found,) = examine(machine, [HEALTHY_NEED]).findings
    assert (found.name, found.severity) == (name, severity)
    if command is None:
        assert found.command is None
    else:
        assert found.command is not None and command in found.command


@pytest.mark.parametrize("architectures", [("sm_90",), ("sm_80", "compute_80"), ("sm_90a",)])
def test_code_for_the_gpu_may_be_its_own_or_compiled_by_the_driver(architectures: tuple[str, ...]) -> None:
    machine = replace(MACHINE, torch=replace(TORCH, architectures=architectures))
    assert examine(machine, [HEALTHY_NEED]).findings == ()


def test_a_recipe_that_lacks_models_is_no_fault_of_the_machine() -> None:
    need = RecipeNeed("sdxl_pixart", ("models.sdxl: absent", "GPU: none found"), "bottega models fetch --recipe r.yaml")
    answer = examine(MACHINE, [need, HEALTHY_NEED])
    (found,) = answer.findings
    assert (found.severity, found.command, answer.exit_code) == (Severity.INFO, need.command, 0)
    assert "sdxl_pixart lacks 2: models.sdxl: absent; GPU: none found" in found.evidence


def test_what_cannot_be_judged_is_said_with_the_reason() -> None:
    machine = replace(MACHINE, torch=CPU_TORCH, gpus=(), requirements_known=False, untested=None)
    said = {item.what for item in examine(machine).not_judged}
    assert said == {"GPU", "required versions", "tested versions", "what recipes lack"}


def test_this_machine_is_read_without_a_fault_of_the_reader(tmp_path: Path) -> None:
    machine = read_machine(tmp_path / "hub", tmp_path / "runs")
    assert machine.torch is not None
    assert machine.torch.threads >= 1
    assert 0 < machine.free_memory <= machine.memory
    assert all(disk.writable and disk.free > 0 for disk in machine.disks)
    assert not (tmp_path / "hub").exists()
    assert examine(machine).facts["python"] == machine.python
