"""Fill50K from any of its layouts; a copy with its sides exchanged is refused."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bottega.data import fill50k
from bottega.data.config import Fill50KConfig
from bottega.data.pictures import open_picture
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl
from bottega.runtime.seeds import numpy_rng

COUNT = 12


def example(index: int) -> tuple[Image.Image, Image.Image, str]:
    """As the data set draws: a white outline on black, a filled circle on a ground; prompts repeat."""
    rng = numpy_rng("circle", index)
    x, y, r = (int(v) for v in rng.integers((40, 40, 15), (90, 90, 35)))
    inside, outside = (tuple(int(v) for v in rng.integers(60, 256, 3)) for _ in range(2))
    source, target = Image.new("RGB", (128, 128)), Image.new("RGB", (128, 128), outside)
    ImageDraw.Draw(source).ellipse((x - r, y - r, x + r, y + r), outline="white")
    ImageDraw.Draw(target).ellipse((x - r, y - r, x + r, y + r), fill=inside)
    return source, target, f"colour {index % 5} circle with colour {index % 3} background"


def write(folder, layout, encoded, swapped=()):
    folder.mkdir(parents=True)
    files, rows = {}, []
    for index in range(COUNT):
        source, target, prompt = example(index)
        if index in swapped:
            source, target = target, source
        files[index] = (encoded(source), encoded(target), prompt)
    if layout == "folders":
        for side in ("source", "target"):
            (folder / side).mkdir()
        for index, (source, target, prompt) in files.items():
            (folder / "source" / f"{index}.png").write_bytes(source)
            (folder / "target" / f"{index}.png").write_bytes(target)
            rows.append({"source": f"source/{index}.png", "target": f"target/{index}.png", "prompt": prompt})
        (folder / "prompt.json").write_text("\n".join(map(json.dumps, rows)))
    elif layout == "zips":
        with (
            zipfile.ZipFile(folder / "images.zip", "w") as images,
            zipfile.ZipFile(folder / "conditioning_images.zip", "w") as conditioning,
        ):
            for index, (source, target, prompt) in files.items():
                names = {"image": f"images/{index}.png", "conditioning_image": f"conditioning_images/{index}.png"}
                images.writestr(names["image"], target)
                conditioning.writestr(names["conditioning_image"], source)
                rows.append({"text": prompt, **names})
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def cell(data, index):
            return {"bytes": data, "path": f"{index}.png" if layout == "parquet" else None}

        table = {
            "image": [cell(target, index) for index, (_, target, _) in files.items()],
            "conditioning_image": [cell(source, index) for index, (source, _, _) in files.items()],
            "text": [prompt for _, _, prompt in files.values()],
        }
        pq.write_table(pa.table(table), folder / "train-00000-of-00001.parquet")


def prepared(root, **options):
    summary = fill50k.run(Fill50KConfig(source="raw", **options), root / "fill50k", data_root=root)
    return summary, list(read_jsonl(root / "fill50k" / "fill50k.jsonl"))


@pytest.mark.parametrize("layout", ["folders", "zips", "parquet", "parquet without names"])
def test_each_layout_gives_the_same_examples(tmp_path, encoded, layout):
    write(tmp_path / "raw", layout, encoded)
    summary, rows = prepared(tmp_path)
    assert (summary["layout"], summary["examples"]) == (layout.split()[0], COUNT)
    assert [row["key"] for row in rows] == [str(index) for index in range(COUNT)]
    for index, row in enumerate(rows):
        source, target, prompt = example(index)
        assert list(row) == ["key", "source_path", "target_path", "prompt", "split"]
        assert row["prompt"] == prompt
        assert np.array_equal(np.asarray(open_picture(tmp_path / row["source_path"])), np.asarray(source))
        assert np.array_equal(np.asarray(open_picture(tmp_path / row["target_path"])), np.asarray(target))
    first = (tmp_path / "fill50k" / "fill50k.jsonl").read_bytes()
    prepared(tmp_path)
    assert (tmp_path / "fill50k" / "fill50k.jsonl").read_bytes() == first


def test_an_examples_split_depends_on_its_key_alone(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded)
    before = {row["key"]: row["split"] for row in prepared(tmp_path)[1]}
    lines = (tmp_path / "raw" / "prompt.json").read_text().splitlines()
    (tmp_path / "raw" / "prompt.json").write_text("\n".join(reversed(lines[3:])))
    after = {row["key"]: row["split"] for row in prepared(tmp_path)[1]}
    assert after == {key: split for key, split in before.items() if int(key) >= 3}


def test_exchanged_sides_are_refused_and_mended_by_swap(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded, swapped=range(COUNT))
    with pytest.raises(RequestError, match="12 of 12 examples have them the other way round; run with --swap"):
        prepared(tmp_path)
    assert not (tmp_path / "fill50k" / "fill50k.jsonl").exists()
    _, rows = prepared(tmp_path, swap=True)
    assert rows[0]["source_path"] == "raw/target/0.png"
    assert len(rows) == COUNT


def test_swap_on_a_copy_that_stands_right_is_refused(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded)
    with pytest.raises(RequestError, match="leave out --swap"):
        prepared(tmp_path, swap=True)


def test_single_exchanged_missing_and_broken_examples_are_recorded(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded, swapped=[4])
    (tmp_path / "raw" / "source" / "1.png").unlink()
    (tmp_path / "raw" / "target" / "2.png").write_bytes(b"no picture")
    with (tmp_path / "raw" / "prompt.json").open("a") as stream:
        stream.write("\n" + json.dumps({"source": "source/0.png", "target": "target/0.png", "prompt": "again"}))
    summary, rows = prepared(tmp_path)
    assert [int(row["key"]) for row in rows] == [0, 3, *range(5, COUNT)]
    lines = (tmp_path / "fill50k" / "rejects.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[1] for line in lines) == ["broken", "duplicate", "missing", "swapped"]
    assert summary["rejected"] == 4


def test_another_data_set_is_refused(tmp_path, encoded, photo):
    with pytest.raises(MissingError, match=r"prompt\.json"):
        prepared(tmp_path)
    write(tmp_path / "raw", "folders", encoded)
    for side in ("source", "target"):
        for index in range(COUNT):
            (tmp_path / "raw" / side / f"{index}.png").write_bytes(encoded(photo(index)))
    with pytest.raises(RequestError, match="none of 12 examples"):
        prepared(tmp_path)
    for index in range(COUNT):
        (tmp_path / "raw" / "source" / f"{index}.png").write_bytes(encoded(example(index)[0]))
    with pytest.raises(RequestError, match="two flat areas"):
        prepared(tmp_path)


def test_a_broken_zip_is_named(tmp_path, encoded):
    write(tmp_path / "raw", "zips", encoded)
    (tmp_path / "raw" / "images.zip").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(RequestError, match=r"images\.zip is no complete zip file"):
        prepared(tmp_path)


@pytest.mark.parametrize("gone", ["pictures", "list"])
def test_without_its_source_the_list_of_an_earlier_run_stays(tmp_path, encoded, gone):
    write(tmp_path / "raw", "folders", encoded)
    fill50k.run(Fill50KConfig(source="raw"), tmp_path / "fill50k", data_root=tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "fill50k").iterdir()}
    if gone == "pictures":
        for path in (tmp_path / "raw").rglob("*.png"):
            path.unlink()
    else:
        (tmp_path / "raw" / "prompt.json").write_text("")
    with pytest.raises(MissingError, match="there is no picture in"):
        fill50k.run(Fill50KConfig(source="raw"), tmp_path / "fill50k", data_root=tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "fill50k").iterdir()} == before


def test_when_every_picture_is_damaged_the_list_of_an_earlier_run_stays(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded)
    fill50k.run(Fill50KConfig(source="raw"), tmp_path / "fill50k", data_root=tmp_path)
    before = (tmp_path / "fill50k" / "fill50k.jsonl").read_bytes()
    for path in (tmp_path / "raw").rglob("*.png"):
        path.write_bytes(b"rubbish")
    with pytest.raises(RequestError, match="no usable example in Fill50K"):
        fill50k.run(Fill50KConfig(source="raw"), tmp_path / "fill50k", data_root=tmp_path)
    assert (tmp_path / "fill50k" / "fill50k.jsonl").read_bytes() == before


def test_the_two_most_frequent_colours_and_the_nearly_black_are_measured_by_their_shares():
    picture = Image.new("RGB", (10, 10), (200, 30, 30))
    picture.paste((30, 200, 30), (0, 0, 10, 3))
    picture.paste((5, 5, 5), (0, 3, 10, 4))
    assert fill50k.measure(picture) == {"dark": pytest.approx(0.1), "flat": pytest.approx(0.6 + 0.3)}


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", ["../elsewhere.png", 7, None])
def test_an_example_with_either_side_outside_of_its_folder_is_refused(tmp_path, encoded, side, name):
    write(tmp_path / "raw", "folders", encoded)
    (tmp_path / "elsewhere.png").write_bytes(encoded(example(0)[0]))
    lines = (tmp_path / "raw" / "prompt.json").read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), side: name})
    (tmp_path / "raw" / "prompt.json").write_text("\n".join(lines))
    with pytest.raises(RequestError, match="line 4 must name a source and a target in its folder"):
        prepared(tmp_path)


def test_what_datasets_saved_to_disk_reads_as_parquet(tmp_path, encoded):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path / "raw", "parquet", encoded)
    table = pq.read_table(tmp_path / "raw" / "train-00000-of-00001.parquet")
    (tmp_path / "raw" / "train-00000-of-00001.parquet").unlink()
    with (
        pa.OSFile(str(tmp_path / "raw" / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    assert [row["prompt"] for row in prepared(tmp_path)[1]] == [example(index)[2] for index in range(COUNT)]


def test_a_zip_that_was_not_unpacked_is_named_with_the_command_that_unpacks_it(tmp_path, encoded):
    import shlex
    import shutil
    import subprocess

    write(tmp_path / "set" / "fill50k", "folders", encoded)
    (tmp_path / "raw").mkdir()
    shutil.make_archive(str(tmp_path / "raw" / "fill50k"), "zip", tmp_path / "set")
    with pytest.raises(MissingError, match=r"but fill50k\.zip: unpack them first, by ") as told:
        prepared(tmp_path)
    command = str(told.value).partition(" first, by ")[2].partition("; unpack Fill50K")[0]
    subprocess.run(shlex.split(command), check=True)
    assert prepared(tmp_path)[0]["examples"] == COUNT


@pytest.mark.parametrize("empty", [None, float("nan")])
def test_an_example_without_a_prompt_is_rejected_however_the_table_says_so(tmp_path, encoded, empty):
    import pyarrow.parquet as pq

    write(tmp_path / "raw", "parquet", encoded)
    path = tmp_path / "raw" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    column = [empty] * COUNT if empty is not None else [None, *table.column("text").to_pylist()[1:]]
    pq.write_table(table.set_column(2, "text", [column]), path)
    if empty is not None:
        with pytest.raises(RequestError, match="no usable example"):
            prepared(tmp_path)
    else:
        assert prepared(tmp_path)[0]["rejected"] == 1
    assert "no-caption" in (tmp_path / "fill50k" / "rejects.csv").read_text()


@pytest.mark.parametrize("form", ["array", "pretty", "mark", "windows", "utf-16", "table"])
def test_the_list_may_have_any_form(tmp_path, encoded, form):
    write(tmp_path / "raw", "folders", encoded)
    listed = tmp_path / "raw" / "prompt.json"
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    if form == "windows":
        rows = [{key: value.replace("/", "\\") for key, value in row.items()} for row in rows]
    text = {
        "array": json.dumps(rows),
        "pretty": "".join(json.dumps(row, indent=4) + ",\n" for row in rows),
        "table": "source,target,prompt\n" + "".join(f"{','.join(row.values())}\n" for row in rows),
    }.get(form, "\n".join(map(json.dumps, rows)))
    if form == "table":
        listed = listed.rename(listed.with_name("metadata.csv"))
    listed.write_bytes(text.encode({"mark": "utf-8-sig", "utf-16": "utf-16"}.get(form, "utf-8")))
    summary, found = prepared(tmp_path)
    assert (summary["examples"], summary["rejected"]) == (COUNT, 0)
    assert [row["prompt"] for row in found] == [example(index)[2] for index in range(COUNT)]


def test_a_name_that_really_has_a_backslash_is_found(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded)
    (tmp_path / "raw" / "source" / "3.png").rename(tmp_path / "raw" / "source\\3.png")
    listed = tmp_path / "raw" / "prompt.json"
    listed.write_text(listed.read_text().replace("source/3.png", r"source\\3.png"))
    assert prepared(tmp_path)[0]["rejected"] == 0


def test_a_torn_list_is_refused_and_not_read_in_part(tmp_path, encoded):
    write(tmp_path / "raw", "folders", encoded)
    listed = tmp_path / "raw" / "prompt.json"
    listed.write_text(listed.read_text()[:-20])
    with pytest.raises(RequestError, match=rf"line {COUNT}, got .*; mend it there"):
        prepared(tmp_path)
