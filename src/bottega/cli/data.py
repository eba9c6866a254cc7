"""`bottega data`: contents, styles, Fill50K, the user's own folders, and pair lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from bottega.cli.common import print_json, read_numbers
from bottega.runtime.errors import RequestError
from bottega.runtime.locks import run_of

app = typer.Typer(help="Prepare contents, styles, Fill50K and pairs.", no_args_is_help=True)

MinSide = Annotated[int, typer.Option(min=1, help="Pixels that a picture's short side must have.")]
Workers = Annotated[int, typer.Option(min=0, help="Threads that decode pictures; 0: one a processor, at most 8.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, other splits or pairs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


@app.command()
def wikiart(
    output_dir: Annotated[Path, typer.Option(help="Where images/, meta.csv and splits/ go.")] = Path("data/wikiart"),
    cache_dir: Annotated[
        Path | None, typer.Option(help="Parquet or Arrow files, or style/artist_title.jpg  [default: OUTPUT_DIR/raw]")
    ] = None,
    mode: Annotated[str, typer.Option(help="symlink or copy: how picture files get into images/.")] = "symlink",
    mirror: Annotated[str | None, typer.Option(help="Address asked before the hub.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is missing, up to 40 GB.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never fetch.")] = False,
    min_side: MinSide = 64,
    workers: Workers = 0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Prepare WikiArt as styles from what is in the cache; --fetch gets the rest from the hub (about 40 GB)."""
    from bottega.data import wikiart as module
    from bottega.data.config import WikiArtConfig
    from bottega.runtime.config import parse

    asked = {"source": str((cache_dir or output_dir / "raw").absolute()), "mode": mode, "mirror": mirror}
    network = {"fetch": fetch, "offline": offline}
    config = parse(WikiArtConfig, {**asked, **network, **_shared(min_side, workers, seed)}, "data wikiart")
    with run_of(output_dir, "bottega data wikiart"):
        summary = module.run(config, output_dir, data_root=output_dir.parent)
    _print(summary, output_dir / "meta.csv", json_)


@app.command()
def coco(
    source: Annotated[Path, typer.Option(help="Folder of COCO or COCO-Stuff.")] = Path("dataset_cocostuff"),
    output_dir: Annotated[Path, typer.Option(help="Where contents.jsonl goes.")] = Path("data/coco"),
    data_root: Annotated[
        Path | None, typer.Option(help="What paths are relative to  [default: the folder of OUTPUT_DIR]")
    ] = None,
    parts: Annotated[str, typer.Option(help="Caption files to read, such as train2017,val2017; empty: all.")] = "",
    min_side: MinSide = 64,
    workers: Workers = 0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Prepare COCO pictures with their original captions as contents."""
    from bottega.data import coco as module
    from bottega.data.config import CocoConfig
    from bottega.runtime.config import parse

    named = [part.strip() for part in parts.split(",")]
    asked = {"source": str(source.absolute()), "parts": [part for part in named if part]}
    config = parse(CocoConfig, {**asked, **_shared(min_side, workers, seed)}, "data coco")
    with run_of(output_dir, "bottega data coco"):
        summary = module.run(config, output_dir, data_root=data_root or output_dir.parent)
    _print(summary, output_dir / "contents.jsonl", json_)


@app.command()
def fill50k(
    source: Annotated[Path, typer.Option(help="Folder of Fill50K, in any of its layouts.")] = Path("dataset_fill50k"),
    output_dir: Annotated[Path, typer.Option(help="Where fill50k.jsonl goes.")] = Path("data/fill50k"),
    data_root: Annotated[
        Path | None, typer.Option(help="What paths are relative to  [default: the folder of OUTPUT_DIR]")
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="This copy has source and target exchanged.")] = False,
    min_side: MinSide = 64,
    workers: Workers = 0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Prepare Fill50K, the second training task; refuses a copy whose two sides are exchanged."""
    from bottega.data import fill50k as module
    from bottega.data.config import Fill50KConfig
    from bottega.runtime.config import parse

    asked = {"source": str(source.absolute()), "swap": swap, **_shared(min_side, workers, seed)}
    config = parse(Fill50KConfig, asked, "data fill50k")
    with run_of(output_dir, "bottega data fill50k"):
        summary = module.run(config, output_dir, data_root=data_root or output_dir.parent)
    _print(summary, output_dir / "fill50k.jsonl", json_)


@app.command()
def folder(
    contents: Annotated[Path | None, typer.Option(help="Folder of pictures to be contents.")] = None,
    styles: Annotated[
        Path | None, typer.Option(help="Folder of pictures to be styles; sub-folders are labels.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Where coco/ and wikiart/ go.")] = Path("data"),
    prompt: Annotated[str | None, typer.Option(help="Caption of contents that have none of their own.")] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column of metadata.jsonl, .csv … that holds the contents' captions.")
    ] = None,
    mode: Annotated[str, typer.Option(help="symlink or copy: how style pictures get into images/.")] = "symlink",
    min_side: MinSide = 64,
    workers: Workers = 0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Prepare your own pictures; captions come from metadata.jsonl, a text beside each picture, or --prompt."""
    from bottega.data import stage
    from bottega.data.config import DataConfig
    from bottega.runtime.config import parse

    if contents is None and styles is None:
        raise RequestError("nothing to prepare was named; give --contents FOLDER, --styles FOLDER or both")
    shared = _shared(min_side, workers, seed)
    asked: dict[str, object] = {"coco": None, "wikiart": None, "fill50k": None}
    if contents is not None:
        asked["content_folder"] = {
            "source": str(contents.absolute()),
            "prompt": prompt,
            "caption_column": caption_column,
            **shared,
        }
    if styles is not None:
        asked["style_folder"] = {"source": str(styles.absolute()), "mode": mode, **shared}
    config = parse(DataConfig, asked, "data folder")
    with run_of(data_root / "coco", "bottega data folder"):
        summary = stage.run(config, data_root)
    _print(summary, data_root, json_)


@app.command()
def pairs(
    output: Annotated[Path, typer.Option(help="The pair list (JSON lines).")] = Path(
        "data/pairs/pseudo_pairs_train.jsonl"
    ),
    num_pairs: Annotated[int, typer.Option(help="Pairs; a longer list begins with the shorter one.")] = 10_000,
    seeds: Annotated[str, typer.Option(help="Target seeds of each pair.")] = "0,1,2",
    split: Annotated[str, typer.Option(help="train, val or test: of contents and styles alike.")] = "train",
    crossed: Annotated[
        str | None, typer.Option(help="All combinations instead, such as 20x20: contents x styles.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="What paths are relative to.")] = Path("data"),
    contents: Annotated[Path | None, typer.Option(help="[default: DATA_ROOT/coco/contents.jsonl]")] = None,
    styles: Annotated[Path | None, typer.Option(help="Folder of meta.csv  [default: DATA_ROOT/wikiart]")] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Write a pair list: balanced over styles, no duplicates, splits respected, the same on any machine."""
    from bottega.data import pairs as module
    from bottega.data.config import ListConfig
    from bottega.runtime.config import parse

    asked = {"num_pairs": num_pairs, "seeds": read_numbers("seeds", seeds), "seed": seed, "split": split}
    if crossed is not None:
        grid = read_numbers("crossed", crossed.lower(), separator="x", example="20x20")
        asked = {**asked, "crossed": grid}
    config = parse(ListConfig, asked, "data pairs")
    with run_of(output, "bottega data pairs"):
        summary = module.write_list(config, output, data_root=data_root, contents=contents, styles=styles)
    _print(summary, output, json_)


def _shared(min_side: int, workers: int, seed: int) -> dict[str, dict[str, int]]:
    """What every kind of data is asked for."""
    return {"limits": {"min_side": min_side, "workers": workers}, "splits": {"seed": seed}}


def _print(summary: Mapping[str, object], output: Path, as_json: bool) -> None:
    """One line for people, or the whole summary."""
    if as_json:
        print_json(summary)
        return
    # of several kinds of data each has its own counts; one alone has them at the top
    nested = {name: counts for name, counts in summary.items() if isinstance(counts, Mapping)}
    if len(nested) == len(summary):
        for name, counts in nested.items():
            typer.echo(f"{name}: {_counts(counts)}")
    else:
        typer.echo(_counts(summary))
    typer.echo(f"wrote {output}")


def _counts(counts: Mapping[str, object]) -> str:
    """`12 pictures, 3 too small`; lists, such as that of the missing shards, come last with their name first."""
    parts = [f"{value} {key.replace('_', ' ')}" for key, value in counts.items() if not isinstance(value, list)]
    for key, value in counts.items():
        if isinstance(value, list):
            parts.append(f"{key.replace('_', ' ')}: {', '.join(map(str, value))}")
    return ", ".join(parts)
