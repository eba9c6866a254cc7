"""Where a result comes from: versions, commit, machine, and the hash of every weight file used."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from bottega.runtime.files import sha256_file

_PACKAGES = (
    "bottega", "torch", "diffusers", "transformers", "tokenizers", "accelerate", "peft", "safetensors", "numpy",
    "pillow", "opencv-python-headless", "pyarrow", "pydantic",
)  # fmt: skip


class TorchFacts(TypedDict, total=False):
    """What only torch knows; results are equal to the bit within these."""

    device: str
    threads: int
    default_dtype: str
    instruction_set: str


class Provenance(TorchFacts):
    """What a result depends on apart from the recipe, as it stands in `provenance.json`."""

    python: str
    platform: str
    cpu_count: int | None
    packages: dict[str, str]
    commit: str | None
    weights: dict[str, str]


def describe(weight_files: Iterable[Path] = ()) -> Provenance:
    """What a result depends on apart from the recipe, as JSON.

    Weight files are named by their last three path parts (`weights/unet/model.safetensors`), never by a whole path, so
    that a run directory says nothing of the machine it was made on. What only torch knows (device, threads, the
    instruction set it uses) is there only if this process has loaded torch.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "packages": {name: version for name, version in versions.items() if version is not None},
        "commit": commit(),
        **torch_facts(),
        "weights": {"/".join(path.parts[-3:]): sha256_file(path) for path in weight_files},
    }


def torch_facts() -> TorchFacts:
    """Device, threads, dtype and instruction set: equality to the bit is promised within these. Empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = bool(torch.cuda.is_available())
    return {
        "device": str(torch.cuda.get_device_name(0)) if cuda else "cpu",
        "threads": int(torch.get_num_threads()),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "instruction_set": str(torch.backends.cpu.get_cpu_capability()),
    }


def commit() -> str | None:
    """The git commit of the source tree that runs, with `-dirty` if it was changed; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    # No tag: the same commit must read the same in a clone that has fetched other tags.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return done.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
