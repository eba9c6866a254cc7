"""WikiArt: parquet files or folders of pictures become `images/`, `meta.csv`, `splits/` and `rejects.csv`.

    find the source -> inspect each picture -> id, file in images/ -> group the near-identical -> splits -> tables

Every step is a stream; what is known of a picture is in `index.sqlite`, so that a stopped run continues.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bottega.data.config import SplitConfig, StyleFolderConfig, WikiArtConfig
from bottega.data.contents import count_splits
from bottega.data.index import Index, PictureRow
from bottega.data.ingest import (
    limits_stamp,
    name_some,
    require_source,
    require_usable,
    update_index,
    write_csv,
    write_rejects,
)
from bottega.data.placement import Placement
from bottega.data.records import META_HEADER
from bottega.data.splits import SPLITS, Member, assign
from bottega.data.style_sources import StyleSource, find_styles
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_text
from bottega.runtime.progress import Progress
from bottega.runtime.trust import Role, seal

LOGGER = logging.getLogger(__name__)
CONVERTED_HEADER = ("id", "path", "source", "was", "is")


def run(config: WikiArtConfig | StyleFolderConfig, directory: Path, *, data_root: Path) -> dict[str, int | list[str]]:
    """Prepare styles in `directory`; the same command continues a stopped run and takes in new pictures.

    Args:
        config: where the pictures are, and how to take them.
        directory: the output, normally `wikiart/` under the data root.
        data_root: what a relative `config.source` starts from.

    Returns:
        Counts, for the stage's summary.

    Raises:
        MissingError: no source, and none could be fetched.
        RequestError: a parquet file is damaged or has no picture or style column, or no picture is usable.
    """
    # Find the source, and refuse what would destroy an earlier run's work.
    source = data_root / config.source
    _refuse_own_output(source, directory)
    styles = find_styles(config, source)
    require_source(styles.contents(), source)

    with Index(directory / "index.sqlite") as index:
        # Know all that is there before the first picture: one that is not was perhaps moved (`ingest.find_twins`).
        index.mark_all_present(styles.sources())

        # Inspect what is new, give it an id and a file.
        place = Placement(directory, index, copy=config.mode == "copy", max_pixels=config.limits.max_pixels)
        with Progress(styles.count(), "styles", "pictures") as progress:

            def is_known(prefix: str, stamp: str, count: int) -> bool:
                if not _is_known_shard(index, place, limits_stamp(stamp, config.limits), prefix, count):
                    return False
                progress.update(count)
                return True

            update_index(
                index,
                styles.pictures(is_known),
                place,
                limits=config.limits,
                progress=progress,
                has_outputs=place.is_in_place,
            )
        require_usable(index, directory, "styles")

        # Only now, when the new pictures are known: a file may have been renamed, and its bytes are then kept.
        kept = _keep_without_source(index, place, styles, directory)
        place.unlink(index.drop_absent())
        index.commit()

        # Decide the splits, and write the tables from the index.
        splits = _split_styles(index, config.splits)
        summary = _write_tables(directory, index, splits)
    if kept:
        summary["kept_without_source"] = kept
    if styles.missing:
        summary["missing_shards"] = list(styles.missing)
    return summary


def _refuse_own_output(source: Path, directory: Path) -> None:
    whole = source.resolve()
    if directory.resolve() in [whole, *whole.parents] and (source / "meta.csv").exists():
        raise RequestError(f"the styles' source {source} is this stage's own output; name the folder of the originals")


def _is_known_shard(index: Index, place: Placement, stamp: str, prefix: str, count: int) -> bool:
    """Whether all rows of a parquet file are known and their files in place."""
    # Without this, 40 GB of WikiArt would be read to find that there is nothing to do.
    rows = list(index.rows(prefix))
    if len(rows) != count or not all(row.stamp == stamp and place.is_in_place(row) for row in rows):
        return False
    for row in rows:
        index.mark_present(row.source)
    return True


def _split_styles(index: Index, config: SplitConfig) -> dict[str, str]:
    """Decide the split of every usable style, and remember it; see `splits.assign`."""
    group = index.groups()
    members = []
    for row in index.rows():
        if row.id is not None:
            artist = str(row.extra.get("artist", ""))
            style = str(row.extra.get("style", ""))
            members.append(Member(row.id, group[row.id], artist, style))
    splits = assign(members, fractions=config.fractions, seed=config.seed, previous=index.splits())
    index.put_splits(splits)
    index.commit()
    return splits


def _keep_without_source(index: Index, place: Placement, styles: StyleSource, directory: Path) -> int:
    """Keep the pictures that are in `images/` though the table they came from is out of reach; returns their number.

    A table that was deleted to free the disk, or whose disk is not mounted, says nothing of its pictures. A picture
    that its table or folder does not hold any more was taken out of it, and leaves `meta.csv`.
    """
    kept = 0
    tables: dict[str, None] = {}  # in order, each once
    for row in index.absent():
        if styles.is_out_of_reach(row.source) and row.usable and place.is_in_place(row):
            index.mark_present(row.source)
            tables[row.source.rpartition("#")[0]] = None
            kept += 1
    if kept:
        LOGGER.warning(
            "%s: %d pictures are kept though %s, from which they came, %s gone; to leave them out, delete images/ and "
            "index.sqlite there and run again",
            directory,
            kept,
            name_some(list(tables)),
            "is" if len(tables) == 1 else "are",
        )
    return kept


def _write_tables(directory: Path, index: Index, splits: dict[str, str]) -> dict[str, int | list[str]]:
    usable = [row for row in index.rows() if row.id is not None]
    usable.sort(key=lambda row: str(row.id))
    converted = [row for row in usable if "converted" in row.extra]
    write_csv(directory / "meta.csv", META_HEADER, map(_meta_row, usable))
    write_csv(directory / "converted.csv", CONVERTED_HEADER, map(_converted_row, converted))
    _write_splits(directory / "splits", splits)
    summary: dict[str, int | list[str]] = {
        "pictures": len(usable),
        "rejected": write_rejects(directory / "rejects.csv", index),
        "converted": len(converted),
        "labels": len({row.extra["style"] for row in usable}),
        "artists": len({row.extra["artist"] for row in usable}),
        **count_splits(splits),
    }
    _record_hashes(directory, usable)
    return summary


def _record_hashes(directory: Path, usable: Sequence[PictureRow]) -> None:
    """Record the tables and pictures; a picture that is linked belongs to the source."""
    files: dict[Path, Role] = {directory / "meta.csv": "result"}
    files |= {directory / name: "view" for name in ("converted.csv", "rejects.csv")}
    files |= {directory / "splits" / f"{split}.txt": "result" for split in SPLITS}
    known: dict[Path, str] = {}
    for row in usable:
        path = directory / str(row.extra["path"])
        files[path] = "source" if path.is_symlink() else "result"
        known[path] = f"sha256:{row.extra.get('written', row.inspection.sha256)}"
    seal(directory, files, known)


def _write_splits(folder: Path, splits: dict[str, str]) -> None:
    """One list of ids for each split, an empty one too: `records.read_styles` reads them."""
    for split in SPLITS:
        lines = [f"{identity}\n" for identity, where in splits.items() if where == split]
        write_text(folder / f"{split}.txt", "".join(lines))


def _converted_row(row: PictureRow) -> tuple[object, ...]:
    """The columns of `CONVERTED_HEADER`."""
    return (row.id, row.extra["path"], row.source, row.inspection.kind, row.extra["converted"])


def _meta_row(row: PictureRow) -> tuple[object, ...]:
    """The columns of `META_HEADER`."""
    extra = row.extra
    return (
        row.id,
        extra["path"],
        extra["artist"],
        extra["style"],
        extra["genre"],
        extra.get("written", row.inspection.sha256),
        extra.get("caption", ""),  # an index that was written before there were captions has none
    )
