"""Lists in any form that tools write give the same rows, and a broken one is refused with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.data.jsonstream import iter_objects
from bottega.data.rows import listed_name, read_rows
from bottega.runtime.errors import MissingError, RequestError

ROWS = [{"file_name": f"{k}.jpg", "text": f"a scene {k}, of dots\u2028and \u5c71"} for k in range(5)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(delimiter):
    head = delimiter.join(["file_name", "text"])
    return "\r\n".join([head, *(f'{row["file_name"]}{delimiter}"{row["text"]}"' for row in ROWS)])


FORMS = {
    "lines": ("a.jsonl", lines(ROWS)),
    "no last line end": ("a.jsonl", lines(ROWS).strip()),
    "empty lines": ("a.jsonl", "\n\n" + lines(ROWS).replace("\n", "\r\n\r\n")),
    "array": ("a.json", json.dumps(ROWS, ensure_ascii=False)),
    "indented array": ("a.jsonl", json.dumps(ROWS, indent=2)),
    "objects over several lines": ("prompt.json", "\n".join(json.dumps(row, indent=4) for row in ROWS)),
    "with commas": ("prompt.json", ",\n".join(json.dumps(row, indent=4) for row in ROWS)),
    "with a comma at the end": ("prompt.json", "".join(json.dumps(row, indent=4) + ",\n" for row in ROWS)),
    "by name": ("meta.json", json.dumps({row["file_name"]: {"text": row["text"]} for row in ROWS})),
    "commas": ("metadata.csv", table(",")),
    "semicolons": ("metadata.csv", table(";")),
    "tabs": ("metadata.tsv", table("\t")),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_encoding_gives_the_same_rows(tmp_path, form, encoding):
    name, text = FORMS[form]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [dict(row.values) for row in read_rows(tmp_path / name)] == ROWS


def test_a_parquet_file_is_a_list_too(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**row, "image": b"not read"} for row in ROWS]), tmp_path / "metadata.parquet")
    assert [dict(row.values) for row in read_rows(tmp_path / "metadata.parquet")] == ROWS


OBJECTS = st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text(), max_size=2), max_size=3))


@settings(max_examples=60)
@given(OBJECTS, st.integers(1, 9), st.sampled_from([None, 1]), st.sampled_from(["\n", ",\n", " ", "array"]))
def test_any_objects_read_as_json_reads_them(tmp_path_factory, objects, chunk, indent, between):
    import io

    documents = [json.dumps(item, indent=indent) for item in objects]
    text = json.dumps(objects, indent=indent) if between == "array" else between.join(documents)
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    assert [row for _, row in iter_objects(io.StringIO(text), path, chunk=chunk)] == objects


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", lines(ROWS)[:-9], r"a\.jsonl is no complete JSON: a value must come here .* line 5"),
        ("a.jsonl", lines(ROWS) + "7\n", r"only objects may be in a list at character \d+, line 6"),
        ("a.jsonl", lines(ROWS) + "]", r"an object must come here at character \d+, line 6"),
        ("a.json", json.dumps(ROWS)[:-1], '"," or "]" must come here'),
        ("a.json", json.dumps(ROWS) + "{}", "the list must end"),
        ("a.json", "[1]", "only objects may be in a list"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "a value must be shorter"),
        ("a.json", '{"a": ' + "[" * 100_000, "a value must be shorter"),
        ("a.csv", "file_name,text\na.jpg,a hill, some trees\n", r"line 2: 3 values stand under 2 names .* in quotes"),
        ("a.csv", 'file_name,text\na.jpg,"a hill\n', r"line 2 is no row of a table"),
    ],
)
def test_a_broken_list_is_refused_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=message):
        list(read_rows(tmp_path / name))


def test_a_missing_list_is_missing(tmp_path):
    with pytest.raises(MissingError, match="there is no file"):
        list(read_rows(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("written", "name"),
    [("a\\b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg"), (".\\a.jpg", "a.jpg"), ("/a/b", "/a/b"), ("../a", "../a")],
)
def test_a_listed_name_is_a_path_below_its_folder(written, name):
    assert listed_name(written) == name
