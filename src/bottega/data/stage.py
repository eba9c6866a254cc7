"""The stage `data`: every part of the section `data` prepared under one root."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bottega.data.config import DataConfig


def run(config: DataConfig, directory: Path) -> dict[str, Mapping[str, object]]:
    """Prepare contents, styles and Fill50K under the data root `directory`.

    Written are `coco/contents.jsonl`, `wikiart/{images,meta.csv,splits}` and `fill50k/fill50k.jsonl`, each with a
    `rejects.csv` beside it; the folders keep these names whatever the pictures come from. May be called again:
    what is done is not done again, a stopped run continues, new pictures are taken in.

    Args:
        config: what to prepare, and where it comes from.
        directory: the data root.

    Returns:
        A summary: counts by part.

    Raises:
        MissingError: a source is not there; the message says how to get it.
        RequestError: a source is malformed, or gives no picture.
    """
    from bottega.data import coco, contents, fill50k, wikiart

    summary: dict[str, Mapping[str, object]] = {}
    if config.content_folder is not None:
        summary["contents"] = contents.run_folder(config.content_folder, directory / "coco", data_root=directory)
    elif config.coco is not None:
        summary["contents"] = coco.run(config.coco, directory / "coco", data_root=directory)
    styles = config.style_folder or config.wikiart
    if styles is not None:
        summary["styles"] = wikiart.run(styles, directory / "wikiart", data_root=directory)
    if config.fill50k is not None:
        summary["fill50k"] = fill50k.run(config.fill50k, directory / "fill50k", data_root=directory)
    return summary
