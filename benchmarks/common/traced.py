"""`bottega`, with what it is doing marked in a file, so that a kill can be aimed at it.

python benchmarks/common/traced.py MARKS

MARKS becomes one byte a phase: how many calls of it are in hand. The file is mapped into memory, so a mark costs
nothing and outlives the process. Each line of its input is the words of one command, as a JSON list: it is run by a
process forked from this one, which has imported the libraries (half a minute on a slow machine) and done nothing with
them. Answered are that process's id and, when it has ended, its exit code.
"""

from __future__ import annotations

import functools
import importlib
import json
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.bench import die_with_parent

LAZY = {
    "diffusers": ("StableDiffusionXLImg2ImgPipeline", "UNet2DConditionModel", "AutoencoderTiny", "DDIMScheduler"),
    "transformers": ("AutoTokenizer", "CLIPModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection"),
}
PHASES = ("encoding", "U-Net", "decoding", "judging", "writing", "entering")


class Marks:
    """The file."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as stream:
            self._bytes = mmap.mmap(stream.fileno(), len(PHASES))
        self._lock = threading.Lock()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count a call while it lasts."""
        self._add(phase, 1)
        try:
            yield
        finally:
            self._add(phase, -1)

    def wrapped(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, marked."""

        @functools.wraps(call)
        def marked(*args: Any, **options: Any) -> Any:
            with self.during(phase):
                return call(*args, **options)

        return marked

    def _add(self, phase: str, number: int) -> None:
        with self._lock:
            self._bytes[PHASES.index(phase)] += number


def mark(marks: Marks) -> None:
    """Wrap what the phases consist of; before anything else takes these functions by name."""
    from bottega.runtime import files

    atomic_path = files.atomic_path

    @contextmanager
    def writing(path: Path) -> Iterator[Path]:
        with marks.during("writing"), atomic_path(path) as temporary:
            yield temporary

    files.atomic_path = writing
    from bottega.models import loading
    from bottega.quality.measuring import Judge
    from bottega.teacher.ledger import Ledger

    Judge.measure = marks.wrapped("judging", Judge.measure)  # type: ignore[method-assign]
    Ledger.commit = marks.wrapped("entering", Ledger.commit)  # type: ignore[method-assign]
    load = loading.load_teacher_pipeline

    def loaded(*args: Any, **options: Any) -> Any:
        pipeline = load(*args, **options)
        for encoder in (pipeline.image_encoder, pipeline.text_encoder, pipeline.text_encoder_2):
            encoder.forward = marks.wrapped("encoding", encoder.forward)
        pipeline.unet.forward = marks.wrapped("U-Net", pipeline.unet.forward)
        pipeline.vae.encode = marks.wrapped("encoding", pipeline.vae.encode)
        pipeline.vae.decode = marks.wrapped("decoding", pipeline.vae.decode)
        return pipeline

    loading.load_teacher_pipeline = loaded


def import_all() -> None:
    """What `bottega teach` imports."""
    for name in (
        "cli.teach",
        "models.encoders",
        "models.loading",
        "teacher.generator",
        "teacher.runner",
        "teacher.stage",
    ):
        importlib.import_module(f"bottega.{name}")
    for library, kinds in LAZY.items():  # these two import a class when it is first asked for
        for kind in kinds:
            getattr(importlib.import_module(library), kind)


def live(words: list[str], marks: Path) -> None:
    """One command, in this process, to its end."""
    from bottega.cli.main import entry

    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    mark(Marks(marks))
    sys.argv = ["bottega", *words]
    entry()


def main() -> None:
    """Fork for each command that is asked for, until there are none."""
    import_all()
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            live(json.loads(line), Path(sys.argv[1]))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
