"""Trying a LoRA: pictures without it, with it at several weights, and after it; and the proof that nothing is left.

All pictures have one seed and the same settings, so that the LoRA is the only thing that differs. The proof has three
parts, because each can hold while another fails: no layer is left in any component, the base weights have the checksum
of the start, and the picture afterwards is the one before bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bottega.generation.engine import Engine, Pixels
from bottega.generation.lora.layers import checksum
from bottega.generation.lora.manager import TaintedError
from bottega.generation.records import GenerationRequest, LoRASpec, LoRAUse, PictureSettings

WEIGHTS = (0.0, 0.5, 1.0)
"""None at all, which must change nothing; the least that profiles recommend; and the strength it was trained for."""


@dataclass(frozen=True)
class PictureChange:
    """How far one picture is from the one without the LoRA.

    weight: of the LoRA. mean: absolute difference of the values, in levels of 255. most: the largest one. pixels:
    share of pixels of which any value differs, 0 to 1.
    """

    weight: float
    mean: float
    most: int
    pixels: float


@dataclass(frozen=True)
class Remains:
    """What is left after a LoRA was taken out.

    layers: LoRA layers by component. checksums_kept: components whose base weights are those of the start, by name.
    same_picture: whether the picture is the one before, bit for bit. refused: what the manager said, where it could not
    bring the model back.
    """

    layers: dict[str, int]
    checksums_kept: dict[str, bool]
    same_picture: bool
    refused: str = ""

    @property
    def nothing(self) -> bool:
        """Whether nothing is left, by all three proofs."""
        clean = not any(self.layers.values()) and all(self.checksums_kept.values())
        return clean and self.same_picture and not self.refused


@dataclass(frozen=True, eq=False)
class LoRATrial:
    """What was seen.

    use: the LoRA as it was applied. settings: of all pictures. changes: by weight, in order. remains: after it was
    taken out. pictures: without it, at each weight, and after it.
    """

    use: LoRAUse
    settings: PictureSettings
    changes: tuple[PictureChange, ...]
    remains: Remains
    pictures: tuple[Pixels, ...]

    @property
    def passed(self) -> bool:
        """Whether weight 0 changed nothing and nothing is left."""
        silent = all(change.most == 0 for change in self.changes if change.weight == 0)
        return silent and self.remains.nothing

    @property
    def changes_nothing(self) -> bool:
        """Whether the pictures are the same at every weight, as with a LoRA that was never trained."""
        return all(change.most == 0 for change in self.changes)

    def record(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        return {
            "lora": dataclasses.asdict(self.use),
            "settings": dataclasses.asdict(self.settings),
            "changes": [dataclasses.asdict(change) for change in self.changes],
            "remains": dataclasses.asdict(self.remains),
            "nothing_is_left": self.remains.nothing,
            "changes_nothing": self.changes_nothing,
            "passed": self.passed,
        }


def try_lora(
    engine: Engine[Any], file: Path, request: GenerationRequest, weights: Sequence[float] = WEIGHTS
) -> LoRATrial:
    """Draw without a LoRA, with it, and after it.

    Args:
        engine: whose LoRAs are taken out first.
        file: the LoRA.
        request: what to draw, one picture; it names no LoRA.
        weights: to draw with.

    Raises:
        RequestError: the file is refused, or the request cannot be drawn.
        StorageError: the file is damaged.
    """
    engine.loras.clear()
    sums = checksums(engine)
    first = engine.generate(request)
    settings, before = first.result.settings, first.pixels[0]

    # The guardrails would correct weights that are outside what a family recommends, 0 among them; so `draw`.
    use: LoRAUse | None = None
    pictures, changes = [before], []
    for weight in weights:
        answer = engine.draw(settings, [LoRASpec(path=file, weight=weight)])
        use = answer.result.loras[0]
        pictures.append(answer.pixels[0])
        changes.append(difference(weight, before, answer.pixels[0]))
    assert use is not None

    remains, after = take_out(engine, settings, before, sums)
    if after is not None:
        pictures.append(after)
    return LoRATrial(use, settings, tuple(changes), remains, tuple(pictures))


def take_out(
    engine: Engine[Any], settings: PictureSettings, before: Pixels, sums: dict[str, int]
) -> tuple[Remains, Pixels | None]:
    """Take all LoRAs out and look for what is left.

    Args:
        engine: with LoRAs.
        settings: of the picture `before`.
        before: the picture without LoRAs.
        sums: the components' checksums at that time.

    Returns:
        What is left, and the picture afterwards; None where the manager could not bring the model back.
    """
    refused, after = "", None
    try:
        after = engine.draw(settings).pixels[0]
    except TaintedError as error:
        refused = str(error)
    layers = {}
    for name, component in engine.modules.adapted.items():
        layers[name] = sum(hasattr(module, "lora_A") for module in component.modules())
    kept = {name: value == sums[name] for name, value in checksums(engine).items()}
    same = after is not None and np.array_equal(after, before)
    return Remains(layers, kept, same, refused), after


def checksums(engine: Engine[Any]) -> dict[str, int]:
    """The checksum of each component that LoRAs may change, by name."""
    return {name: checksum(component) for name, component in engine.modules.adapted.items()}


def difference(weight: float, before: Pixels, after: Pixels) -> PictureChange:
    """How far two pictures, uint8 [H, W, 3], are from each other."""
    apart = np.abs(before.astype(np.int16) - after.astype(np.int16))
    return PictureChange(weight, float(apart.mean()), int(apart.max()), float(apart.any(axis=-1).mean()))
