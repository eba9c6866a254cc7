"""`bottega doctor env`: what this machine has, what is wrong with it, and what each recipe lacks here.

    answer = examine(read_machine(cache, runs), needs)

`read_machine` reads and judges nothing; `examine` judges and reads nothing, so that every kind of machine can be tried.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bottega.doctor.answer import Answer, Draft, FactValue
from bottega.runtime.findings import Severity

_GB = 1e9

LEAST_MEMORY = 2.0
"""GB of free memory below which a run is likely to swap: a stage of the miniature's quick recipe peaks at 0.6 GB,
beside the process of the run itself and what the system keeps of files."""

LEAST_ROOM = 1.0
"""GB of free disk below which a run of the miniature may not end."""

LITTLE_ROOM = 10.0
"""GB of free disk that the features and checkpoints of a small run on real pictures take."""

_WITH_BFLOAT16 = (8, 0)
"""The compute capability from which on a GPU knows bfloat16: Ampere's."""

ATTENTION_PACKAGES = ("xformers", "flash_attn", "sageattention")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver reports it. memory: GB. capability: such as `9.0`, "" where torch does not see it."""

    name: str
    memory: float
    capability: str = ""


@dataclass(frozen=True)
class Torch:
    """The build of torch. cuda: the version that it was built for, such as `12.6`; None for a build without."""

    version: str
    cuda: str | None
    hip: str | None
    sees_gpu: bool
    architectures: tuple[str, ...]
    cpu_capability: str
    bfloat16_on_cpu: bool
    threads: int
    attention: tuple[str, ...]


@dataclass(frozen=True)
class Disk:
    """A folder that is written to: GB that are free where it lies, and whether it may be written."""

    what: str
    place: Path
    free: float
    writable: bool


@dataclass(frozen=True)
class Package:
    """A package with what is wrong with its version. rule: such as `>=2.6`."""

    name: str
    rule: str
    version: str | None


@dataclass(frozen=True)
class Machine:
    """What there is.

    cores: that this process may use. memory, free_memory: GB, within the limit of a container. driver: of the GPUs, ""
    for none. unmet: requirements of bottega that the installed packages do not meet. untested: packages in another
    version than the constraints name; None where there are no constraints to compare with.
    """

    python: str
    system: str
    cores: int
    memory: float
    free_memory: float
    torch: Torch | None
    torch_error: str
    gpus: tuple[Gpu, ...]
    driver: str
    disks: tuple[Disk, ...]
    unmet: tuple[Package, ...]
    requirements_known: bool
    untested: tuple[Package, ...] | None
    constraints: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class RecipeNeed:
    """What a recipe lacks on this machine: one line a thing. command: what gets its models; None for none."""

    recipe: str
    lacks: tuple[str, ...]
    command: str | None = None


# --- judging ------------------------------------------------------------------------------------------------------


def examine(machine: Machine, needs: Sequence[RecipeNeed] = ()) -> Answer:
    """What is wrong with a machine, and what each recipe lacks on it.

    Args:
        machine: what `read_machine` gave.
        needs: of the recipes that were looked at.
    """
    found = Draft()
    _judge_packages(machine, found)
    _judge_torch(machine, found)
    _judge_memory(machine, found)
    _judge_disks(machine, found)
    _judge_threads(machine, found)
    for need in needs:
        if need.lacks:
            evidence = f"{need.recipe} lacks {len(need.lacks)}: {'; '.join(need.lacks)}"
            found.add("recipe not ready", Severity.INFO, evidence, "get what it needs", need.command)
    if not needs:
        found.leave_out("what recipes lack", "no recipes/ folder is here")
    ready = [need.recipe for need in needs if not need.lacks]
    found.facts |= _facts(machine, ready)
    return found.answer("this machine")


def _judge_packages(machine: Machine, found: Draft) -> None:
    for package in machine.unmet:
        received = "is absent" if package.version is None else f"is {package.version}"
        found.add(
            "package does not fit",
            Severity.ERROR,
            f"{package.name}{package.rule} is needed, and it {received}",
            "install it",
            f"pip install {shlex.quote(package.name + package.rule)}",
        )
    if not machine.requirements_known:
        found.leave_out("required versions", "bottega is not installed as a package")
    if machine.untested is None:
        found.leave_out("tested versions", "there is no constraints.txt beside this bottega")
    elif machine.untested:
        shown = [f"{package.name} {package.version} (tested {package.rule})" for package in machine.untested]
        place = shlex.quote(str(machine.constraints))
        names = " ".join(package.name for package in machine.untested)
        found.add(
            "versions not tested",
            Severity.INFO,
            f"{len(shown)} packages differ from the tested versions: {', '.join(shown)}",
            "install those, if something that worked elsewhere fails here",
            f"pip install -c {place} {names}",
        )


def _judge_torch(machine: Machine, found: Draft) -> None:
    torch = machine.torch
    if torch is None:
        found.add(
            "torch does not load",
            Severity.ERROR,
            f"importing torch failed: {machine.torch_error}",
            "install it again",
            "pip install --force-reinstall torch",
        )
        found.leave_out("GPU, attention and threads", "torch does not load")
        return
    if machine.gpus and torch.cuda is None and torch.hip is None:
        found.add(
            "torch without GPU support",
            Severity.ERROR,
            f"{machine.gpus[0].name} is here, and torch {torch.version} was built for the CPU alone",
            "install the build for CUDA",
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        )
    elif machine.gpus and not torch.sees_gpu:
        found.add(
            "torch does not see the GPU",
            Severity.ERROR,
            f"{machine.gpus[0].name} is here with driver {machine.driver}; torch {torch.version} for CUDA {torch.cuda} "
            "finds no device: the driver is too old for that build, or CUDA_VISIBLE_DEVICES hides it",
            "unset CUDA_VISIBLE_DEVICES, or install a build for an older CUDA",
            "unset CUDA_VISIBLE_DEVICES && pip install --force-reinstall torch "
            "--index-url https://download.pytorch.org/whl/cu118",
        )
    for gpu in machine.gpus:
        _judge_gpu(gpu, torch, found)
    if not machine.gpus:
        found.leave_out("GPU", "the driver reports none")


def _judge_gpu(gpu: Gpu, torch: Torch, found: Draft) -> None:
    if not gpu.capability:
        return
    major, _, minor = gpu.capability.partition(".")
    capability = (int(major), int(minor))
    fits = any(_runs_on(architecture, capability) for architecture in torch.architectures)
    if torch.architectures and not fits:
        found.add(
            "torch has no code for the GPU",
            Severity.ERROR,
            f"{gpu.name} is of architecture {gpu.capability}; torch {torch.version} was built for "
            f"{', '.join(torch.architectures)}",
            "install a build that has it: the newest for new GPUs, the one for CUDA 11.8 for old ones",
            "pip install --upgrade torch --index-url https://download.pytorch.org/whl/cu128",
        )
    if capability < _WITH_BFLOAT16:
        found.add(
            "GPU without bfloat16",
            Severity.INFO,
            f"{gpu.name} (architecture {gpu.capability}) knows float16 and float32: models.dtype auto takes float16",
        )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of that capability runs what was built for an architecture such as `sm_86` or `compute_90`."""
    kind, _, number = architecture.partition("_")
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    built = divmod(int(digits), 10)
    if kind == "compute":  # code for a later driver, which runs on all above
        return built <= capability
    # A kernel runs on later minor versions of its own major one.
    return kind == "sm" and built[0] == capability[0] and built[1] <= capability[1]


def _judge_memory(machine: Machine, found: Draft) -> None:
    if machine.free_memory < LEAST_MEMORY:
        found.add(
            "little memory",
            Severity.WARNING,
            f"{machine.free_memory:.1f} of {machine.memory:.1f} GB of memory are free, and a run of the miniature "
            f"wants {LEAST_MEMORY:.0f}",
            "end what else takes it; the list is sorted by memory",
            "ps -eo pid,rss,comm --sort=-rss | head",
        )


def _judge_disks(machine: Machine, found: Draft) -> None:
    for disk in machine.disks:
        quoted = shlex.quote(str(disk.place))
        if not disk.writable:
            found.add(
                "folder may not be written",
                Severity.ERROR,
                f"the {disk.what}, {disk.place}, may not be written by user {os.geteuid()}",
                "make it yours",
                f"sudo chown -R {os.geteuid()} {quoted} && chmod -R u+rwX {quoted}",
            )
        if disk.free < LITTLE_ROOM:
            severity = Severity.ERROR if disk.free < LEAST_ROOM else Severity.WARNING
            found.add(
                "little disk space",
                severity,
                f"{disk.free:.1f} GB are free for the {disk.what}, {disk.place}",
                "delete what is not needed there; the list is sorted by size",
                f"du -xh --max-depth=1 {quoted} | sort -h",
            )


def _judge_threads(machine: Machine, found: Draft) -> None:
    threads = machine.torch.threads if machine.torch is not None else 0
    if threads > machine.cores:
        found.add(
            "more threads than cores",
            Severity.WARNING,
            f"torch computes with {threads} threads, and this process may use {machine.cores} cores: they wait for "
            "each other",
            "say how many there are",
            f"export OMP_NUM_THREADS={machine.cores}",
        )


def _facts(machine: Machine, ready: Sequence[str]) -> dict[str, FactValue]:
    torch = machine.torch
    facts: dict[str, FactValue] = {
        "python": machine.python,
        "system": machine.system,
        "cores": machine.cores,
        "memory": f"{machine.free_memory:.1f} of {machine.memory:.1f} GB free",
    }
    if torch is not None:
        built = "the CPU"
        if torch.cuda is not None:
            built = f"CUDA {torch.cuda}"
        elif torch.hip is not None:
            built = f"ROCm {torch.hip}"
        facts |= {
            "torch": f"{torch.version}, built for {built}",
            "cpu": f"{torch.cpu_capability}, bfloat16 {'in hardware' if torch.bfloat16_on_cpu else 'not in hardware'}",
            "threads": torch.threads,
            "attention": list(torch.attention),
        }
    facts["gpu"] = [f"{gpu.name}, {gpu.memory:.0f} GB" for gpu in machine.gpus]
    for disk in machine.disks:
        facts[disk.what] = f"{disk.place}, {disk.free:.1f} GB free"
    facts["network for models"] = "forbidden by HF_HUB_OFFLINE" if machine.offline else "allowed"
    facts["recipes that can run"] = list(ready)
    return facts


# --- reading ------------------------------------------------------------------------------------------------------


def read_machine(cache: Path, runs: Path) -> Machine:
    """What there is on this machine. Imports torch, uses no GPU, loads no model.

    Args:
        cache: the model cache.
        runs: the folder of run directories.
    """
    gpus, driver = _gpus()
    torch, error = _torch()
    if torch is not None and torch.sees_gpu:
        gpus = _with_capability(gpus)
    memory, free = _memory()
    unmet, known = _unmet_requirements()
    constraints = _constraints_file()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=_cores(),
        memory=memory,
        free_memory=free,
        torch=torch,
        torch_error=error,
        gpus=gpus,
        driver=driver,
        disks=(_disk("model cache", cache), _disk("runs", runs)),
        unmet=unmet,
        requirements_known=known,
        untested=None if constraints is None else _untested(constraints),
        constraints=constraints,
        offline=os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"),
    )


def _cores() -> int:
    """Cores that this process may use: fewer than the machine has in a container, or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> tuple[float, float]:
    """(all, free) in GB, within the limit of a container."""
    import psutil

    from bottega.runtime.memory import load

    machine = psutil.virtual_memory()
    total = machine.total / _GB
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        total = min(total, limit / _GB)
    except (OSError, ValueError):
        pass  # no limit, or no control groups
    return total, total * (1 - load().ram)


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """GPUs by their driver, which sees them whatever build of torch is here; with the driver's version."""
    import pynvml

    try:
        pynvml.nvmlInit()
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for number in range(int(pynvml.nvmlDeviceGetCount())):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            memory = float(pynvml.nvmlDeviceGetMemoryInfo(handle).total) / _GB
            found.append(Gpu(str(pynvml.nvmlDeviceGetName(handle)), memory))
        return tuple(found), driver
    except pynvml.NVMLError:
        return (), ""


def _with_capability(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    import torch

    found = list(gpus)
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        seen = Gpu(
            torch.cuda.get_device_name(number),
            torch.cuda.get_device_properties(number).total_memory / _GB,
            f"{major}.{minor}",
        )
        if number < len(found):
            found[number] = seen
        else:
            found.append(seen)
    return tuple(found)


def _torch() -> tuple[Torch | None, str]:
    """The build of torch, or why it does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that it is linked to may be absent or of another version
        return None, " ".join(str(error).split())
    sees_gpu = bool(torch.cuda.is_available())
    has_bfloat16 = False
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        has_bfloat16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    facts = Torch(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=getattr(torch.version, "hip", None),
        sees_gpu=sees_gpu,
        architectures=tuple(torch.cuda.get_arch_list()) if sees_gpu else (),
        cpu_capability=str(torch.backends.cpu.get_cpu_capability()),
        bfloat16_on_cpu=has_bfloat16,
        threads=int(torch.get_num_threads()),
        attention=_attention(sees_gpu),
    )
    return facts, ""


def _attention(sees_gpu: bool) -> tuple[str, ...]:
    """What attention can be computed with: torch's own kernels, and packages that diffusers can use."""
    import torch

    found = ["torch's own"]
    if sees_gpu:
        kernels = {
            "flash": torch.backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
            "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
            "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
        }
        enabled = [name for name, is_on in kernels.items() if is_on]
        found = [f"torch's own ({', '.join(enabled) or 'mathematics alone'})"]
    found += [name for name in ATTENTION_PACKAGES if importlib.util.find_spec(name) is not None]
    return tuple(found)


def _disk(what: str, place: Path) -> Disk:
    """Where a folder lies, which need not be there yet."""
    whole = place.expanduser().absolute()
    nearest = next(folder for folder in (whole, *whole.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / _GB
    return Disk(what, place, free, os.access(nearest, os.W_OK | os.X_OK))


def _unmet_requirements() -> tuple[tuple[Package, ...], bool]:
    """(requirements of bottega that are not met, whether they are known)."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("bottega") or []
    except metadata.PackageNotFoundError:
        return (), False
    found = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found.append(Package(requirement.name, str(requirement.specifier), version))
    return tuple(found), True


def _constraints_file() -> Path | None:
    """The tested versions: in the source tree that runs, or in the current folder."""
    for folder in (Path(__file__).resolve().parents[3], Path()):
        if (folder / "constraints.txt").is_file():
            return folder / "constraints.txt"
    return None


def _untested(constraints: Path) -> tuple[Package, ...]:
    """Installed packages whose version is another than the tested one."""
    found = []
    for line in constraints.read_text("utf-8").splitlines():
        name, sign, rule = line.partition("#")[0].strip().partition("==")
        version = _version(name) if sign else None
        # A local label, as in 2.13.0+cpu, names the build and not the version.
        if version is not None and version.partition("+")[0] != rule.partition("+")[0]:
            found.append(Package(name, rule, version))
    return tuple(found)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
