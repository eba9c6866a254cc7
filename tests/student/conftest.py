"""A small world for the student's tests: a few pictures on disk, a real ledger, real features, a small transformer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel

from bottega.diffusion.schedule import from_scheduler_config
from bottega.models.config import ModelsConfig
from bottega.runtime.files import sha256_file, write_jsonl, write_png
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.backbone import Backbone
from bottega.student.config import AdapterConfig, FeaturesConfig
from bottega.teacher.ledger import Ledger, TryRow

CONTENTS, STYLES = 4, 3
PATCHES = (5, 24)
"""Number and width of CLIP's patch tokens that a small adapter with token_source patch reads."""


def small_transformer(**changes: Any) -> PixArtTransformer2DModel:
    """Six blocks of 48 on 16 tokens, with weights in which nothing is accidentally zero."""
    settings: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 6,
        "cross_attention_dim": 48,
        "sample_size": 8,
        "patch_size": 2,
        "caption_channels": 20,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PixArtTransformer2DModel(**(settings | changes)).eval()


@pytest.fixture(scope="session")
def make_transformer() -> Callable[..., PixArtTransformer2DModel]:
    return small_transformer


@pytest.fixture(scope="session")
def make_row() -> Callable[..., TryRow]:
    return ledger_row


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone(small_transformer(), from_scheduler_config({}), 8)


@pytest.fixture
def make_adapter(backbone: Backbone) -> Callable[..., StyleAdapter]:
    def make(**changes: Any) -> StyleAdapter:
        seen = PATCHES if changes.get("token_source") == "patch" else (0, 0)
        geometry = Geometry.of(backbone.transformer, 1000, 16, *seen)
        return StyleAdapter.from_transformer(backbone.transformer, AdapterConfig(**changes), geometry)

    return make


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Latents [3, 4, 8, 8], timesteps [3], text [3, 7, 20] with masks of 7, 4 and 1 tokens, embeddings [3, 16], patch
    tokens [3, 5, 24]."""
    draw = torch.Generator().manual_seed(2)
    mask = torch.zeros(3, 7)
    for i, length in enumerate((7, 4, 1)):
        mask[i, :length] = 1
    return {
        "latents": torch.randn(3, 4, 8, 8, generator=draw),
        "timesteps": torch.tensor([0, 263, 999]),
        "text": torch.randn(3, 7, 20, generator=draw),
        "mask": mask,
        "content": torch.randn(3, 4, 8, 8, generator=draw),
        "style": torch.nn.functional.normalize(torch.randn(3, 16, generator=draw), dim=-1),
        "style_content": torch.nn.functional.normalize(torch.randn(3, 16, generator=draw), dim=-1),
        "dropped": torch.zeros(3, dtype=torch.bool),
        "patches": 2 + 3 * torch.randn(3, *PATCHES, generator=draw),  # neither centred nor of unit size, as CLIP's
    }


def as_diffusers_calls_it(backbone: Backbone, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the transformer says when it is called as a pipeline of diffusers calls it."""
    said: torch.Tensor = backbone.transformer(
        inputs["latents"],
        encoder_hidden_states=inputs["text"],
        encoder_attention_mask=inputs["mask"],
        timestep=inputs["timesteps"],
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    return said


def picture(seed: int) -> np.ndarray:
    """A soft random picture, uint8 [128, 128, 3]."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_CUBIC)


def ledger_row(root: Path, teacher: Path, content: int, style: int, **changes: Any) -> TryRow:
    """An accepted try of the target of one content and one style; its picture is drawn here."""
    pair = f"c{content}_s{style}"
    values: dict[str, Any] = {
        "target": f"{pair}_seed0",
        "pair_id": pair,
        "content_id": f"c{content}",
        "style_id": f"s{style}",
        "seed": 0,
        "try_index": 0,
        "rung": "protocol",
        "status": "ok",
        "grade": "AB"[style % 2],
        "weight": (1.0, 0.5)[style % 2],
        "reasons": [],
        "scores": {},
        "parameters": {},
        "noise_seed": 1,
        "prompt": f"Picture number {content}",
        "style": "stipple",
        "split": "train",
        "content_path": f"coco/c{content}.png",
        "style_path": f"wikiart/s{style}.png",
        "output_path": f"images/{pair}_seed0.png",
        "seconds": 0.1,
        "created_at": "2024-01-01T00:00:00Z",
        "fingerprint": "f",
    }
    values |= changes
    places = {"content": root / values["content_path"], "style": root / values["style_path"]}
    for name, path in places.items():
        if not path.exists():
            write_png(path, picture(content if name == "content" else 100 + style))
    write_png(teacher / values["output_path"], picture(1000 + 10 * content + style))
    hashes = {f"{name}_sha256": sha256_file(path) for name, path in places.items()}
    return TryRow(**values, **hashes, output_sha256=sha256_file(teacher / values["output_path"]))


def write_fill50k(root: Path, count: int = 3) -> None:
    rows = []
    for i in range(count):
        row = {
            "key": str(i),
            "source_path": f"raw/f/s{i}.png",
            "target_path": f"raw/f/t{i}.png",
            "prompt": f"circle {i}",
        }
        write_png(root / row["source_path"], picture(2000 + i))
        write_png(root / row["target_path"], picture(3000 + i))
        rows.append({**row, "split": "train"})
    write_jsonl(root / "fill50k" / "fill50k.jsonl", rows)


def write_captions(root: Path) -> None:
    """What the style pictures show: of s1 nobody says."""
    folder = root / "wikiart"
    told = {"s0": "a boat on a lake", "s1": "", "s2": "a boat on a lake"}
    lines = [f"{name},{name}.png,painter,stipple,,0,{caption}" for name, caption in told.items()]
    (folder / "meta.csv").write_text("\n".join(["id,path,artist,style,genre,sha256,caption", *lines]) + "\n")
    (folder / "splits").mkdir()
    (folder / "splits" / "train.txt").write_text("".join(f"{name}\n" for name in told))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/` and `teacher/` with 12 targets of 4 contents × 3 styles, one of them rejected, and 3 of Fill50K."""
    root = tmp_path_factory.mktemp("student_world")
    with Ledger(root / "teacher" / "ledger.sqlite") as ledger:
        rows = [ledger_row(root / "data", root / "teacher", c, s) for c in range(CONTENTS) for s in range(STYLES)]
        rejected = ledger_row(root / "data", root / "teacher", 0, 9, grade="C", weight=0.0)
        ledger.commit([*rows, rejected])
    write_fill50k(root / "data")
    write_captions(root / "data")
    return root


@pytest.fixture(scope="session")
def models(tiny_models: Path) -> ModelsConfig:
    return ModelsConfig(pixart=str(tiny_models / "pixart"), clip=str(tiny_models / "clip"), device="cpu")


@pytest.fixture(scope="session")
def features(world: Path, models: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature cache of `world`."""
    from bottega.student.features import run

    directory = tmp_path_factory.mktemp("student_features")
    config = FeaturesConfig(batch_size=4, shard_items=5, fill50k=3)
    run(config, directory, teacher_dir=world / "teacher", data_root=world / "data", models=models)
    return directory


@pytest.fixture(scope="session")
def features_with_patches(
    world: Path, models: ModelsConfig, features: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same cache, to which CLIP's patch tokens were added by a second run."""
    from bottega.student.features import run

    directory = tmp_path_factory.mktemp("student_patches") / "features"
    shutil.copytree(features, directory)
    config = FeaturesConfig(batch_size=4, shard_items=2, fill50k=3, patches=True)
    found = run(config, directory, teacher_dir=world / "teacher", data_root=world / "data", models=models)
    assert found["encoded"] == found["patches"] == STYLES
    return directory
