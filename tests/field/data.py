"""Data sets as people have them, each drawn here, with what `bottega data` must make of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tests.field.case import Build, Check, Expectation, FieldCase

from bottega.cli.main import main
from bottega.runtime.seeds import numpy_rng

COUNT = 8
"""Pictures of a case: enough for the three splits."""

WIKIART = ("data", "wikiart", "--cache-dir", "{input}", "--output-dir", "{output}", "--json")
FILL50K = ("data", "fill50k", "--source", "{input}", "--output-dir", "{output}/fill50k", "--json")
COCO = ("data", "coco", "--source", "{input}", "--output-dir", "{output}/coco", "--json")
CONTENTS = ("data", "folder", "--contents", "{input}", "--data-root", "{output}", "--json")
STYLES = ("data", "folder", "--styles", "{input}", "--data-root", "{output}", "--json")
PROMPT = ("--prompt", "a photograph")


def picture(number: int, width: int = 96, height: int = 80) -> Image.Image:
    """Smooth clouds of colour with a few discs, another number another picture."""
    rng = numpy_rng("field picture", number)
    clouds = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    draw = ImageDraw.Draw(clouds)
    for x, y, size in rng.integers((0, 0, 6), (width - 20, height - 20, 20), (6, 3)).tolist():
        draw.ellipse((x, y, x + size, y + size), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return clouds


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> None:
    """Write files by their names below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def photographs(folder: Path, count: int = COUNT, first: int = 0) -> None:
    """`0.jpg` and so on."""
    put(folder, {f"{k}.jpg": encoded(picture(first + k)) for k in range(count)})


def built(*steps: Build) -> Build:
    """One builder of several."""

    def build(folder: Path) -> None:
        for step in steps:
            step(folder)

    return build


def with_files(**files: bytes | str) -> Build:
    """A builder that writes files; `__` in a keyword stands for a dot."""
    return lambda folder: put(folder, {name.replace("__", "."): content for name, content in files.items()})


def captioned(*expected: str) -> Check:
    """Whether each content has one caption, and these are all of them."""

    def has_these_captions(_: Path, output: Path) -> None:
        lines = (output / "coco" / "contents.jsonl").read_text(encoding="utf-8").splitlines()
        found = sorted(caption for line in lines for caption in json.loads(line)["captions"])
        assert found == sorted(expected), found

    return has_these_captions


# --- WikiArt ------------------------------------------------------------------------------------------------------


def wiki_table(first: int = 0, *, style: object = 4, artist: object = 3, count: int = COUNT) -> Any:
    """A table of paintings in `huggan/wikiart`'s columns; `style` and `artist` are those of the last row."""
    import pyarrow as pa

    cells = [{"bytes": encoded(picture(first + k)), "path": None} for k in range(count)]
    columns = {"artist": [3] * (count - 1) + [artist], "genre": [4] * count}
    styles = [(4, 12, 23)[k % 3] for k in range(count - 1)]
    return pa.table({"image": cells, **columns, "style": [*styles, style]})


def wiki_parquet(*names: str, **options: Any) -> Build:
    """Parquet files of these names, each with other paintings."""

    def build(folder: Path) -> None:
        import pyarrow.parquet as pq

        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(wiki_table(100 * number, **options), folder / name)

    return build


def wiki_arrow(*folders: str) -> Build:
    """What `save_to_disk` writes, in each of these folders."""

    def build(folder: Path) -> None:
        import pyarrow as pa

        for number, name in enumerate(folders):
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            table = wiki_table(100 * number)
            with (
                pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as sink,
                pa.ipc.new_stream(sink, table.schema) as stream,
            ):
                stream.write_table(table)
            put(place, {"state.json": json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})})

    return build


def style_folders(folder: Path) -> None:
    """ArtGAN's layout: three styles of four paintings."""
    for number, style in enumerate(("Baroque", "Ukiyo_e", "印象派")):
        files = {f"painter-{k % 2}_a-view-{k}.jpg": encoded(picture(10 * number + k)) for k in range(4)}
        put(folder / style, dict(files))


def prepared_and_gone(make: Build, gone: Callable[[Path], None]) -> Build:
    """A source in `raw/` that was prepared into `made/` and then went away."""

    def build(folder: Path) -> None:
        make(folder / "raw")
        words = ["data", "wikiart", "--cache-dir", str(folder / "raw"), "--output-dir", str(folder / "made")]
        assert main([*words, "--mode", "copy", "--offline"]) == 0
        gone(folder / "raw")

    return build


def no_files(folder: Path) -> None:
    """Delete all that is in a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


AGAIN = ("data", "wikiart", "--cache-dir", "{input}/raw", "--output-dir", "{input}/made", "--mode", "copy", "--json")


def _wiki_cases() -> list[FieldCase]:
    whole = Expectation(values={"pictures": COUNT, "rejected": 0})
    two = Expectation(values={"pictures": 2 * COUNT, "missing_shards": ["00002-00071"]}, says=("--fetch",))
    shards = tuple(f"data/train-{k:05d}-of-00072.parquet" for k in range(2))
    nothing = Expectation(says=("there is no parquet or Arrow file and no picture in",))
    nan = float("nan")
    both = Expectation(values={"pictures": 2 * COUNT, "rejected": 0})
    lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    tables = wiki_parquet("a.parquet")
    return [
        FieldCase("wiki_two_of_72", wiki_parquet(*shards), WIKIART, 0, two),
        FieldCase("wiki_zero_of_zero", wiki_parquet("data/train-00000-of-00000.parquet"), WIKIART, 0, whole),
        FieldCase("wiki_same_names", wiki_parquet("train/0000.parquet", "test/0000.parquet"), WIKIART, 0, both),
        FieldCase("wiki_nan_style", wiki_parquet("a.parquet", style=nan, artist=nan), WIKIART, 0, whole),
        FieldCase("wiki_null_artist", wiki_parquet("a.parquet", artist=None), WIKIART, 0, whole),
        FieldCase(
            "wiki_style_of_no_name", wiki_parquet("a.parquet", style=99), WIKIART, 2, Expectation(says=("has no name",))
        ),
        FieldCase("wiki_arrow", wiki_arrow(""), WIKIART, 0, whole),
        FieldCase("wiki_arrow_splits", wiki_arrow("train", "test"), WIKIART, 0, both),
        FieldCase("wiki_lfs", with_files(a__parquet=lfs), WIKIART, 2, Expectation(says=("git lfs pull",)), mend=tables),
        FieldCase("wiki_folder", style_folders, WIKIART, 0, Expectation(values={"pictures": 12, "labels": 3})),
        FieldCase("wiki_nothing", with_files(readme__md="no data"), WIKIART, 2, nothing, mend=tables),
        FieldCase("wiki_gone_tables", prepared_and_gone(tables, no_files), AGAIN, 2, nothing),
        FieldCase("wiki_gone_folder", prepared_and_gone(style_folders, shutil.rmtree), AGAIN, 2, nothing),
    ]


# --- Fill50K ------------------------------------------------------------------------------------------------------


def circle(number: int) -> tuple[bytes, bytes, str]:
    """Outline, filled circle and prompt."""
    rng = numpy_rng("field circle", number)
    x, y, radius = rng.integers((45, 45, 15), (85, 85, 35)).tolist()
    inside, ground = (tuple(rng.integers(60, 256, 3).tolist()) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    outline, filled = Image.new("RGB", (128, 128)), Image.new("RGB", (128, 128), ground)
    ImageDraw.Draw(outline).ellipse(box, outline="white")
    ImageDraw.Draw(filled).ellipse(box, fill=inside)
    return encoded(outline, "PNG"), encoded(filled, "PNG"), f"colour {number} circle with colour {number} background"


def circle_files(separator: str = "/") -> tuple[dict[str, bytes | str], list[dict[str, str]]]:
    """The pictures by name, and the rows of their list."""
    files: dict[str, bytes | str] = {}
    rows = []
    for k in range(COUNT):
        files[f"source/{k}.png"], files[f"target/{k}.png"], prompt = circle(k)
        rows.append({"source": f"source{separator}{k}.png", "target": f"target{separator}{k}.png", "prompt": prompt})
    return files, rows


def circles(write: Callable[[Sequence[dict[str, str]]], bytes | str], separator: str = "/") -> Build:
    """ControlNet's layout with the list as `write` gives it."""

    def build(folder: Path) -> None:
        files, rows = circle_files(separator)
        put(folder, {**files, "prompt.json": write(rows)})

    return build


def _lines(rows: Sequence[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def zipped_circles(folder: Path) -> None:
    """fill50k.zip as it is fetched."""
    files, rows = circle_files()
    with zipfile.ZipFile(folder / "fill50k.zip", "w") as archive:
        for name, content in {**files, "prompt.json": _lines(rows)}.items():
            archive.writestr(f"fill50k/{name}", content)


def unpack(folder: Path) -> None:
    """What the message says."""
    subprocess.run(["python3", "-m", "zipfile", "-e", folder / "fill50k.zip", folder], check=True)


def _fill_cases() -> list[FieldCase]:
    whole = Expectation(values={"examples": COUNT, "rejected": 0})
    forms: dict[str, Build] = {
        "fill_array": circles(lambda rows: json.dumps(rows)),
        "fill_pretty": circles(lambda rows: "".join(json.dumps(row, indent=4) + ",\n" for row in rows)),
        "fill_mark": circles(lambda rows: _lines(rows).encode("utf-8-sig")),
        "fill_utf16": circles(lambda rows: _lines(rows).encode("utf-16")),
        "fill_backslash": circles(_lines, "\\"),
    }
    cases = [FieldCase(name, build, FILL50K, 0, whole) for name, build in forms.items()]
    torn = circles(lambda rows: _lines(rows)[:-20])
    empty = Expectation(says=("there is no picture in",))
    return [
        *cases,
        FieldCase("fill_torn", torn, FILL50K, 2, Expectation(says=("mend it there",)), mend=circles(_lines)),
        FieldCase("fill_empty_list", circles(lambda rows: "[]"), FILL50K, 2, empty, mend=circles(_lines)),
        FieldCase("fill_zip", zipped_circles, FILL50K, 2, Expectation(says=("python3 -m zipfile -e",)), mend=unpack),
    ]


# --- COCO ---------------------------------------------------------------------------------------------------------


def karpathy(part: str) -> Build:
    """Karpathy's list with the pictures in a folder of this name."""

    def build(folder: Path) -> None:
        photographs(folder / part)
        images = [
            {"filepath": part, "filename": f"{k}.jpg", "sentences": [{"raw": f"scene {k}"}]} for k in range(COUNT)
        ]
        put(folder, {"dataset_coco.json": json.dumps({"images": images, "dataset": "coco"})})

    return build


def coco(annotations: str, kind: str = "captions") -> Build:
    """COCO's layout with its annotations in a folder of this name."""

    def build(folder: Path) -> None:
        photographs(folder / "images" / "train2017")
        document = {
            "images": [{"id": k, "file_name": f"{k}.jpg"} for k in range(COUNT)],
            "annotations": [{"image_id": k, "id": k, "caption": f"scene {k}"} for k in range(COUNT)],
        }
        put(folder, {f"{annotations}/{kind}_train2017.json": json.dumps(document)})

    return build


def _coco_cases() -> list[FieldCase]:
    scenes = captioned(*(f"scene {k}" for k in range(COUNT)))
    whole = Expectation(values={"pictures": COUNT, "rejected": 0}, check=scenes)
    boxes = Expectation(says=("instances_train2017.json, which hold boxes and no captions",))
    torn = built(coco("annotations"), with_files(captions_val2017__json='{"images": [{"id": 1'))
    return [
        FieldCase("coco_karpathy_nested", karpathy("coco/images/val2014"), COCO, 0, whole),
        FieldCase("coco_karpathy_flat", karpathy("val2014"), COCO, 0, whole),
        FieldCase("coco_nested_annotations", coco("annotations_trainval2017/annotations"), COCO, 0, whole),
        FieldCase("coco_boxes", coco("annotations", "instances"), COCO, 2, boxes, mend=coco("annotations")),
        FieldCase("coco_torn", torn, COCO, 2, Expectation(says=("is no complete JSON",))),
    ]


# --- folders ------------------------------------------------------------------------------------------------------


def texts(ending: str, encoding: str = "utf-8") -> Build:
    """A text beside each photograph."""
    files = {f"{k}{ending}": f"scene {k} é".encode(encoding) for k in range(COUNT)}
    return built(photographs, lambda folder: put(folder, dict(files)))


def listed(name: str, write: Callable[[Sequence[dict[str, str]]], bytes | str], column: str = "text") -> Build:
    """A list of captions beside the photographs."""
    rows = [{"file_name": f"{k}.jpg", column: f"scene {k} é"} for k in range(COUNT)]
    return built(photographs, lambda folder: put(folder, {name: write(rows)}))


def _table(rows: Sequence[dict[str, str]]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)])


def _by_name(rows: Sequence[dict[str, str]]) -> str:
    """As kohya's scripts write: the path on their machine without its ending, and what is said of it."""
    return json.dumps({f"/me/{row['file_name'][:-4]}": {"caption": row["text"]} for row in rows})


def linked(folder: Path) -> None:
    """Half of the paintings behind a link to a folder beside, with a loop and a link to nowhere."""
    for number, name in enumerate(("shown/ink", "beside/oil")):
        photographs(folder / name, 4, 10 * number)
    (folder / "shown" / "oil").symlink_to("../beside/oil")
    (folder / "shown" / "loop").symlink_to(".")
    (folder / "shown" / "nowhere").symlink_to("/no such disk")


def rubbish(folder: Path) -> None:
    """Files that are called pictures and are none."""
    put(folder, {f"{k}.jpg": "<html>404</html>" for k in range(COUNT)})


def _folder_cases() -> list[FieldCase]:
    scenes = captioned(*(f"scene {k} é" for k in range(COUNT)))
    whole = Expectation(values={"contents.pictures": COUNT, "contents.rejected": 0}, check=scenes)
    prompted = Expectation(values={"contents.pictures": COUNT}, says=("--caption-column title",))
    column = Expectation(says=("--caption-column title",))
    by_column = (*CONTENTS, "--caption-column", "title")
    unused = Expectation(values={"contents.unused_caption_files": 1}, says=("1 files that look like captions",))
    read: dict[str, Build] = {
        "photos_txt": texts(".txt"),
        "photos_caption": texts(".caption"),
        "photos_utf16": texts(".txt", "utf-16"),
        "photos_csv": listed("metadata.csv", _table),
        "photos_jsonl": listed("metadata.jsonl", _lines),
        "photos_pretty": listed("metadata.jsonl", lambda rows: ",\n".join(json.dumps(row, indent=1) for row in rows)),
        "photos_kohya": listed("meta_cap.json", _by_name),
    }
    gbk = built(photographs, lambda folder: put(folder, {"3.txt": "山上的树".encode("gb18030")}))
    other = listed("metadata.csv", _table, "title")
    stray = built(listed("metadata.csv", _table), with_files(export__csv="x,y\n"))
    none = Expectation(says=("no-caption",))
    bad = Expectation(says=("no usable picture among the contents", "rejects.csv"))
    mixed = Expectation(values={"styles.pictures": 8}, says=("lead nowhere or back",))
    return [
        *(FieldCase(name, build, CONTENTS, 0, whole) for name, build in read.items()),
        FieldCase("photos_gbk", gbk, CONTENTS, 2, Expectation(says=("as gb18030 it reads",)), mend=texts(".txt")),
        FieldCase("photos_other_column", other, CONTENTS, 2, column, then=by_column),
        FieldCase("photos_other_column_prompt", other, (*CONTENTS, *PROMPT), 0, prompted),
        FieldCase("photos_unused", stray, CONTENTS, 0, unused),
        FieldCase("photos_silent", photographs, CONTENTS, 2, none, then=(*CONTENTS, *PROMPT)),
        FieldCase("photos_rubbish", rubbish, (*CONTENTS, *PROMPT), 2, bad, mend=photographs),
        FieldCase(
            "photos_heic",
            with_files(a__HEIC=b"\0\0\0\x18ftypheic"),
            CONTENTS,
            2,
            Expectation(says=("1 .heic: convert them",)),
            mend=texts(".txt"),
        ),
        FieldCase("paintings_linked", linked, (*STYLES[:3], "{input}/shown", *STYLES[4:]), 0, mixed),
        FieldCase("paintings_labels", style_folders, STYLES, 0, Expectation(values={"styles.labels": 3})),
    ]


CASES = [*_wiki_cases(), *_fill_cases(), *_coco_cases(), *_folder_cases()]
