"""The peer of the teacher's benchmarks: the plain loop over diffusers' pipeline that a competent person writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plain_loop(
    pipeline: Any, pairs: Sequence[Mapping[str, Any]], data_root: Path, folder: Path, settings: Mapping[str, Any]
) -> None:
    """A picture a pair, one after the other: both pictures opened, the pipeline called with them and the prompt, and a
    generator of the picture's own, the PNG saved.
    """
    import torch
    from PIL import Image

    folder.mkdir(parents=True)
    pipeline.set_ip_adapter_scale(settings["ip_adapter_scale"])
    side = (int(settings["size"]),) * 2
    for pair in pairs:
        content = Image.open(data_root / pair["content_path"]).convert("RGB").resize(side)
        style = Image.open(data_root / pair["style_path"]).convert("RGB").resize(side)
        picture = pipeline(
            prompt=pair["prompt"],
            image=content,
            ip_adapter_image=style,
            strength=settings["strength"],
            num_inference_steps=int(settings["steps"]),
            guidance_scale=settings["guidance_scale"],
            generator=torch.Generator("cpu").manual_seed(0),
        ).images[0]
        picture.save(folder / f"{pair['pair_id']}_seed0.png")
