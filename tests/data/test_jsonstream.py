"""The streaming reader agrees with json.loads, in bounded memory, and names where a document breaks."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.data.jsonstream import iter_items
from bottega.runtime.errors import MissingError, RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


def flat(document):
    if isinstance(document, list):
        return [("", item) for item in document]
    return [(key, item) for key, value in document.items() for item in (value if isinstance(value, list) else [value])]


@settings(max_examples=60)
@given(st.lists(JSON) | st.dictionaries(st.text(), JSON), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_any_document_reads_as_json_does_whatever_the_chunks(tmp_path_factory, document, chunk, indent, ascii_only):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(iter_items(path, chunk=chunk)) == flat(document)


@pytest.mark.parametrize(
    "text", ["", "  ", "{", '{"a": [1, 2', '{"a": [1 2]}', '{"a": 1} x', "[1,]", '{"a": 1,}', '"text"', "{1: 2}", "nul"]
)
def test_a_broken_document_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=r"broken\.json is no complete JSON: .* at character \d+"):
        list(iter_items(path, chunk=4))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(MissingError, match="there is no file"):
        list(iter_items(tmp_path / "none.json"))


def test_memory_does_not_grow_with_the_document(tmp_path):
    path = tmp_path / "large.json"
    rows = [{"image_id": k, "id": k, "caption": f"a caption of usual length, number {k}"} for k in range(40_000)]
    path.write_text(json.dumps({"annotations": rows}), encoding="utf-8")
    assert path.stat().st_size > 3_000_000
    del rows
    tracemalloc.start()
    count = sum(1 for _ in iter_items(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 1_500_000
