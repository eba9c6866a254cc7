"""What the benchmarks of the student train on: a drawn world with targets and their features, made by the commands that
a user has; and larger caches of random features, written by the cache's own writer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.bench import bottega

RECIPE = Path(__file__).parents[2] / "recipes" / "miniature.yaml"
SIZES = {  # a world that is drawn in a minute; the oracle's targets are drawn truths, one for each pair
    "world.contents": 64,
    "world.contents_val": 8,
    "world.painters": 24,
    "world.fill50k": 40,
    "pairs.val": 2,
    "pairs.crossed": [3, 4],
    "truth.seeds": 1,
    "quality.sample": 48,
}
FILL50K = 32
SHARD = 512


@dataclass(frozen=True)
class FeatureCache:
    """Where features lie, and the run directory of the pictures that they were made of."""

    run: Path
    features: Path
    recipe: Path = RECIPE

    @property
    def data_root(self) -> Path:
        """Contents, styles and Fill50K."""
        return self.run / "data"

    @property
    def teacher(self) -> Path:
        """The ledger and the targets."""
        return self.run / "teacher"

    def train(self, output: Path, settings: Mapping[str, Any]) -> list[str]:
        """The words of `bottega train style` with these settings of the section `student`."""
        given = (word for key, value in settings.items() for word in ("--set", f"student.{key}={json.dumps(value)}"))
        return [
            *(sys.executable, "-m", "bottega", "train", "style", "--recipe", str(self.recipe)),
            *("--features-dir", str(self.features), "--output-dir", str(output), *given),
        ]

    def sample_pictures(self) -> list[dict[str, Any]]:
        """The samples in the order of samples.jsonl, as a script would list them: {sample_id, task, weight, prompt,
        target, content, style}, the last three paths of pictures, style None for Fill50K."""
        from bottega.student.targets import accepted, fill50k

        return [
            {
                **{name: getattr(sample, name) for name in ("sample_id", "task", "weight", "prompt")},
                "target": str(sample.target.path),
                "content": str(sample.content.path),
                "style": None if sample.style is None else str(sample.style.path),
            }
            for sample in (*accepted(self.teacher, self.data_root), *fill50k(self.data_root, FILL50K))
        ]


def make(folder: Path, *, targets: int) -> FeatureCache:
    """Draw a world, let the oracle make `targets` targets (one or two may be rejected), and compute their features."""
    given = {**SIZES, "pairs.train": targets}
    words = ["run", str(RECIPE), "--until", "teacher", "--directory", str(folder)]
    bottega(*words, *_sets(given))
    cache = FeatureCache(folder, folder / "features")
    words = ["features", "--recipe", str(RECIPE), "--output-dir", str(cache.features)]
    words += ["--teacher-dir", str(cache.teacher), "--data-root", str(cache.data_root)]
    bottega(*words, *_sets({"features.fill50k": FILL50K}))
    return cache


def _sets(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield from ("--set", f"{key}={json.dumps(value)}")


def enlarged(cache: FeatureCache, folder: Path, *, targets: int) -> FeatureCache:
    """A cache of `targets` targets in `folder`, with random numbers for features, by the cache's own writer.

    Four targets share a content with its caption, eight a style; captions have the lengths of the real ones.
    """
    import torch

    from bottega.runtime.files import write_json, write_jsonl
    from bottega.student.features import null_text_key
    from bottega.student.store import MANIFEST, SAMPLES, FeatureStore, ShardIndex, read_samples, text_tensors

    store, generator = FeatureStore(cache.features), torch.Generator().manual_seed(0)
    manifest, samples = store.manifest, read_samples(cache.features)
    shape = (manifest["channels"], manifest["cells"], manifest["cells"])
    captions = [store.text_row(row["text"]) for row in samples]
    rows = [_row(number) for number in range(targets)]
    rows += [{**row, "sample_id": f"fill50k-{i}"} for i, row in enumerate(r for r in samples if r["task"] != "main")]
    index = ShardIndex(folder)

    def write(kind: str, keys: list[str]) -> None:
        for start in range(0, len(keys), SHARD):
            part = keys[start : start + SHARD]
            if kind == "text":
                lengths = [len(captions[(start + i) % len(captions)]) for i in range(len(part))]
                tensors = text_tensors([torch.randn(n, manifest["text_width"], generator=generator) for n in lengths])
            elif kind == "clip":
                drawn = torch.randn(len(part), manifest["clip_width"], generator=generator)
                tensors = {"rows": torch.nn.functional.normalize(drawn, dim=-1)}
            else:
                tensors = {"rows": torch.randn(len(part), *shape, generator=generator)}
            index.add(kind, tensors, part, [])

    null = null_text_key(manifest)
    index.add("text", text_tensors([store.text_row(null)]), [null], [])
    for kind, names in (("latent", ("target", "content")), ("text", ("text",)), ("clip", ("style", "clip_content"))):
        write(kind, list(dict.fromkeys(row[name] for row in rows for name in names if row[name] is not None)))
    write_json(folder / MANIFEST, manifest)
    write_jsonl(folder / SAMPLES, rows)
    return replace(cache, features=folder)


def _row(number: int) -> dict[str, Any]:
    """The row of samples.jsonl of a target."""
    from bottega.runtime.files import sha256_bytes

    content, style = number // 4, number // 8

    def key(what: str, which: int) -> str:
        return sha256_bytes(f"{what} {which}".encode())[:32]

    return {
        "sample_id": f"{content:012d}_style-{style:06d}-{number}_seed0",
        "task": "main",
        "split": "train",
        "weight": 1.0,
        "grade": "A",
        "target": key("target", number),
        "content": key("content", content),
        "text": key("caption", content),
        "style": key("style", style),
        "clip_content": key("content in CLIP", content),
    }
