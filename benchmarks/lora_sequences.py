"""Claim: whatever LoRAs are loaded, swapped and unloaded, and whatever fails, the model comes back to the bit.

python benchmarks/lora_sequences.py [--full] [--json]

On the miniature's SDXL, random sequences of steps: add a LoRA, swap one for another, take one out, change a weight,
draw, and fail. A failure is put in after a few modules of the U-Net or of either text encoder, where a weight is set,
as memory that runs out while loading or while the U-Net computes a step, or as a file with NaN. After a failure the set
must be the one before. Every picture is compared bit for bit with that of a second engine which nothing ever failed in,
and which took all LoRAs out before it loaded the set. After each sequence all are taken out: the SHA-256 of all base
weights must be that of the start, no LoRA layer may be left, and the base picture must come back bit for bit.

Then two threads draw with different sets, each of which must get the pictures that it gets alone; and 500 swaps may not
take 20 MB more memory. `--full` runs 300 sequences.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common.bench import Arguments, conclude, say, verdict
from common.engines import COMPONENTS, SETTINGS, layers_left, open_miniature, write_loras
from safetensors.torch import load_file, save_file

from bottega.generation.engine import Pixels, SDXLEngine
from bottega.generation.lora import layers
from bottega.generation.lora.layers import AdaptedModel
from bottega.generation.records import LoRASpec
from bottega.runtime.errors import BottegaError, MemoryPressureError, RequestError, WorkError
from bottega.runtime.memory import rss_mb

FAULTS = (*COMPONENTS, "weight", "memory while loading", "memory while drawing", "nan")
WEIGHTS = (0.4, 1.0)
MOST_AT_ONCE = 3
MAX_GROWTH_MB = 20.0

Loaded = tuple[tuple[int, float], ...]
"""A set of LoRAs: (number of the file, weight), in the order of the request."""


@dataclass
class Bench:
    """The engine that is tried, one that nothing fails in, and what should be found."""

    engine: SDXLEngine
    calm: SDXLEngine
    files: list[Path]
    broken: Path
    known: dict[Loaded, Pixels] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def specs(self, loaded: Loaded) -> list[LoRASpec]:
        return [LoRASpec(path=self.files[number], weight=weight) for number, weight in loaded]

    def expected(self, loaded: Loaded) -> Pixels:
        """What the calm engine draws."""
        if loaded not in self.known:
            self.calm.loras.clear()
            self.known[loaded] = self.calm.draw(SETTINGS, self.specs(loaded)).pixels[0]
        return self.known[loaded]

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


def base_sha256(engine: SDXLEngine) -> str:
    """Of all weights and buffers by name, computed without the manager's own checksum; LoRAs must be out."""
    digest = hashlib.sha256()
    for part in COMPONENTS:
        for name, tensor in sorted(engine.modules.parts[part].state_dict().items()):
            digest.update(f"{part}.{name}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- one step ---------------------------------------------------------------------------------------------------------


def next_set(rng: np.random.Generator, loaded: Loaded, files: int) -> tuple[str, Loaded]:
    """A step that changes the set, and the set after it."""
    absent = [number for number in range(files) if number not in dict(loaded)]
    weight = float(rng.choice(WEIGHTS))
    choices = ["load"] if len(loaded) < MOST_AT_ONCE else []
    choices += ["swap", "unload", "reweigh", "reverse"] if loaded else []
    what = str(rng.choice(choices))
    if what == "load":
        return what, (*loaded, (int(rng.choice(absent)), weight))
    place = int(rng.integers(len(loaded)))
    before, after = loaded[:place], loaded[place + 1 :]
    if what == "swap":
        return what, (*before, (int(rng.choice(absent)), weight), *after)
    if what == "reweigh":
        other = WEIGHTS[1 - WEIGHTS.index(loaded[place][1])]
        return what, (*before, (loaded[place][0], other), *after)
    if what == "reverse":
        return what, loaded[::-1]
    return what, (*before, *after)


@contextmanager
def failing(bench: Bench, fault: str, rng: np.random.Generator) -> Iterator[list[str]]:
    """Something fails meanwhile, once; the list holds a word when it did."""
    hits: list[str] = []
    error: Exception = RuntimeError("injected")
    countdown = int(rng.integers(1, 12))
    if fault == "weight":
        with patch.object(layers, "_weigh", _fails_at(layers._weigh, countdown, error, hits)):
            yield hits
        return
    component = fault
    if fault == "memory while loading":
        component = str(rng.choice(COMPONENTS))
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    broken = bench.engine.loras.components[component]
    attach, insert = AdaptedModel.attach, _fails_at(layers._insert, countdown, error, hits)

    def attach_and_fail(model: AdaptedModel, *rest: Any) -> None:
        # After some modules have their layer already: what is half done is what must be taken back.
        with patch.object(layers, "_insert", insert) if model is broken else nullcontext():
            attach(model, *rest)

    with patch.object(AdaptedModel, "attach", attach_and_fail):
        yield hits


def _fails_at(real: Callable[..., None], countdown: int, error: Exception, hits: list[str]) -> Callable[..., None]:
    left = [countdown]

    def wrapper(*rest: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            hits.append("failed")
            raise error
        real(*rest)

    return wrapper


def fail(bench: Bench, fault: str, loaded: Loaded, wanted: Loaded, rng: np.random.Generator) -> Loaded:
    """Try to get from one set to another while something fails; returns the set that should be there now."""
    engine = bench.engine
    if fault == "memory while drawing":
        hook = engine.modules.network.mid_block.register_forward_hook(_out_of_memory)
        try:
            engine.draw(SETTINGS, bench.specs(wanted))
            bench.wrong.append("memory that ran out while drawing was not told")
        except MemoryPressureError:
            pass
        finally:
            hook.remove()
        return wanted  # the LoRAs were loaded; the drawing failed
    try:
        if fault == "nan":
            engine.loras.apply([*bench.specs(wanted), LoRASpec(path=bench.broken)])
            bench.wrong.append("a file with NaN was loaded")
            return loaded
        with failing(bench, fault, rng) as hits:
            engine.loras.apply(bench.specs(wanted))
        if hits:
            bench.wrong.append(f"the failure at {fault} was not told")
        return wanted  # no module of that component was changed: nothing failed
    except RequestError:
        if fault != "nan":
            raise
    except WorkError:
        if not hits:
            raise
    return loaded


def _out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def check_set(bench: Bench, loaded: Loaded, where: str) -> None:
    """The manager says, and each component shows, exactly this set."""
    names = [use.name for use in bench.engine.loras.loaded]
    if names != [bench.files[number].stem for number, _ in loaded]:
        bench.wrong.append(f"{where}: loaded are {names}, should be {loaded}")
    weights = [use.weights["unet"] for use in bench.engine.loras.loaded]
    if weights != [weight for _, weight in loaded]:
        bench.wrong.append(f"{where}: weights are {weights}, should be {loaded}")


def check_picture(bench: Bench, loaded: Loaded, where: str) -> None:
    drawn = bench.engine.draw(SETTINGS, bench.specs(loaded)).pixels[0]
    if not np.array_equal(drawn, bench.expected(loaded)):
        bench.wrong.append(f"{where}: the picture with {loaded} is another")
    bench.count("pictures")


def run_sequence(bench: Bench, number: int, sha256: str) -> None:
    """One sequence, from no LoRA back to none."""
    rng = np.random.default_rng(number)
    loaded: Loaded = ()
    for step in range(int(rng.integers(4, 10))):
        where = f"sequence {number}, step {step}"
        what, wanted = next_set(rng, loaded, len(bench.files))
        try:
            if rng.random() < 0.45:
                fault = str(rng.choice(FAULTS))
                before, loaded = loaded, fail(bench, fault, loaded, wanted, rng)
                bench.count(f"failed: {fault}" if loaded == before or fault == "memory while drawing" else what)
            else:
                bench.engine.loras.apply(bench.specs(wanted))
                loaded = wanted
                bench.count(what)
            check_set(bench, loaded, where)
            if rng.random() < 0.4:
                check_picture(bench, loaded, where)
        except BottegaError as error:
            bench.wrong.append(f"{where}, {what}: {type(error).__name__}: {error}")
            return
    bench.engine.loras.clear()
    if layers_left(bench.engine.modules):
        bench.wrong.append(f"sequence {number}: {layers_left(bench.engine.modules)} LoRA layers are left")
    elif base_sha256(bench.engine) != sha256:
        bench.wrong.append(f"sequence {number}: the base weights have another hash")
    check_picture(bench, (), f"sequence {number}, end")


# --- threads and memory -----------------------------------------------------------------------------------------------


def two_threads(bench: Bench, pictures: int) -> int:
    """How many of the pictures that two threads draw differ from those of their sets alone."""
    sets: Sequence[Loaded] = (((0, 1.0),), ((1, 0.4), (2, 1.0)))
    wrong = [0, 0]

    def work(place: int) -> None:
        for _ in range(pictures):
            drawn = bench.engine.draw(SETTINGS, bench.specs(sets[place])).pixels[0]
            wrong[place] += not np.array_equal(drawn, bench.known[sets[place]])

    for each in sets:
        bench.expected(each)
    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.engine.loras.clear()
    return sum(wrong)


def growth_of_swaps(bench: Bench, swaps: int) -> float:
    """MB that a number of swaps adds to this process."""

    def swap(number: int) -> None:
        bench.engine.loras.apply([LoRASpec(path=bench.files[number % len(bench.files)])])

    for number in range(20):
        swap(number)
    before = rss_mb()
    for number in range(swaps):
        swap(number)
    after = rss_mb()
    bench.engine.loras.clear()
    return after - before


def prepare(folder: Path) -> Bench:
    """Two engines, four LoRAs and a broken one."""
    engine = open_miniature()
    everywhere = COMPONENTS
    files = write_loras(
        engine.modules,
        folder,
        ranks=(4, 2, 8, 4),
        parts=(everywhere, everywhere, everywhere, ("unet",)),
    )
    broken = load_file(files[0])
    first = next(iter(broken))
    broken[first] = broken[first] * torch.nan
    save_file(broken, folder / "broken.safetensors")
    return Bench(engine, open_miniature(), files, folder / "broken.safetensors")


def main() -> int:
    """Run the sequences, the threads and the swaps; exit code 1 where anything is not as it was."""
    parser = Arguments(__doc__)
    parser.add_size("--sequences", short=60, full=300)
    parser.add_size("--swaps", short=500, full=500)
    parser.add_size("--pictures", short=15, full=60, help="by each of the two threads")
    asked = parser.parse()
    with tempfile.TemporaryDirectory(prefix="bottega-lora-sequences-") as folder:
        bench = prepare(Path(folder))
        sha256 = base_sha256(bench.engine)
        for number in range(asked.sequences):
            run_sequence(bench, number, sha256)
            if number % 20 == 0:
                say(f"sequence {number} of {asked.sequences}, {len(bench.wrong)} faults so far")
        say("two threads")
        differing = two_threads(bench, asked.pictures)
        say(f"{asked.swaps} swaps")
        growth = growth_of_swaps(bench, asked.swaps)
        same_weights = base_sha256(bench.engine) == sha256

    is_small = growth <= MAX_GROWTH_MB
    held = not bench.wrong and differing == 0 and is_small and same_weights
    result = {
        "held": held,
        "sequences": asked.sequences,
        "wrong": bench.wrong,
        "steps": bench.done,
        "threads_differing": differing,
        "growth_mb": round(growth, 1),
        "base_weights_the_same": same_weights,
    }
    steps = ", ".join(f"{count} {what}" for what, count in sorted(bench.done.items()))
    lines = [
        *bench.wrong[:10],
        f"{asked.sequences} sequences ({steps}): {len(bench.wrong)} faults  {verdict(not bench.wrong)}",
        f"two threads, {asked.pictures} pictures each: {differing} differ  {verdict(differing == 0)}",
        f"{asked.swaps} swaps: {growth:+.1f} MB; at most {MAX_GROWTH_MB:g}  {verdict(is_small)}",
    ]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
