"""The report says what a file is; what it says of itself is text, cut and without control characters."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bottega.generation.lora import Architecture, inspect_lora
from bottega.generation.lora.file import open_lora
from bottega.generation.lora.metadata import MAX_TEXT, TOP_TAGS, read_metadata
from bottega.runtime.errors import BottegaError, MissingError, RequestError


def test_a_report_counts_what_is_in_the_file(cases: dict[str, Any], sdxl: Architecture) -> None:
    report = inspect_lora(cases["kohya-mixed-ranks"].file, sdxl)
    assert report.layout == "kohya"
    assert report.family == "sdxl"
    assert set(report.ranks) == {2, 4, 8}
    assert set(report.alphas) == {2.0, 1.0, 16.0}
    assert report.dtypes == {"F32": report.keys}
    assert sum(report.algorithms.values()) == sum(part.modules for part in report.components.values())
    assert report.components["text_encoder"].matched_modules == report.components["text_encoder"].modules == 12
    assert (report.share, report.problem) == (1.0, None)


def test_without_a_model_nothing_is_said_about_fitting(cases: dict[str, Any]) -> None:
    report = inspect_lora(cases["kohya-rank4"].file)
    assert (report.share, report.matched_keys, report.problem) == (None, None, None)
    assert report.unmatched == ()
    assert inspect_lora(cases["family-sd1"].file).family == "sd1"


@pytest.mark.parametrize(
    ("name", "family"),
    [("family-sd2", "sd2"), ("width-full-sdxl", "sdxl"), ("family-flux", "flux"), ("family-pixart", "pixart")],
)
def test_the_family_is_known_by_keys_and_shapes_alone(name: str, family: str, cases: dict[str, Any]) -> None:
    assert inspect_lora(cases[name].file).family == family


def test_foreign_keys_are_named_and_the_share_is_theirs(cases: dict[str, Any], sdxl: Architecture) -> None:
    file = cases["kohya-few-foreign-keys"].file
    report = inspect_lora(file, sdxl)
    assert report.unmatched_keys == 8
    assert report.unmatched[0].startswith("bundle_emb.")
    with safe_open(file, "np") as tensors:
        keys = len(tensors.keys())
    assert report.share == pytest.approx((keys - 8) / keys)


def test_partial_depth_is_accepted_where_it_is_asked_for(cases: dict[str, Any], sdxl: Architecture) -> None:
    file = cases["depth-shallower-encoders"].file
    problem = inspect_lora(file, sdxl).problem
    assert problem is not None
    assert "shallower" in problem
    assert inspect_lora(file, sdxl, partial_depth=True).problem is None


def test_trigger_words_and_tags_come_from_the_header(cases: dict[str, Any]) -> None:
    metadata = inspect_lora(cases["kohya-metadata"].file).metadata
    assert metadata.name == "ink"
    assert metadata.trigger_words == ("inkwash girl",)
    assert metadata.top_tags == (("ink", 30), ("girl", 12))


def test_a_header_can_neither_flood_nor_drive_a_terminal() -> None:
    tags = {f"{number}_{'x' * 1000}": {f"\x1b[2J{tag}" * 100: tag + 1 for tag in range(200)} for number in range(30)}
    metadata = read_metadata(
        {"ss_output_name": "\x1b]0;title\x07a\u202eb\n" + "y" * 10_000, "ss_tag_frequency": json.dumps(tags)}
    )
    texts = [metadata.name, *metadata.trigger_words, *(tag for tag, _ in metadata.top_tags)]
    assert max(map(len, texts)) <= MAX_TEXT
    assert all(text.isprintable() for text in texts)
    assert max(len(metadata.trigger_words), len(metadata.top_tags)) <= TOP_TAGS


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda of: st.dictionaries(st.text(max_size=5), of)
)
KEYS = st.sampled_from(["ss_output_name", "ss_tag_frequency", "modelspec.trigger_phrase", "ss_base_model_version"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, st.text(max_size=50) | JSON.map(json.dumps)))
def test_no_metadata_is_beyond_reading(header: dict[str, str]) -> None:
    read_metadata(header)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_ends_in_a_report_or_one_of_our_errors(
    data: st.DataObject, cases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(cases["kohya-one-block-only"].file.read_bytes())
    length = int.from_bytes(content[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("damaged") / "lora.safetensors"
    file.write_bytes(content)
    with contextlib.suppress(BottegaError):
        inspect_lora(file)


@pytest.mark.parametrize(
    ("dtype", "bits", "finite"),
    [
        ("F16", 0x7BFF, True), ("F16", 0x7C00, False), ("F16", 0xFE00, False), ("BF16", 0x7F7F, True),
        ("BF16", 0x7F80, False), ("BF16", 0xFFC0, False), ("F8_E4M3", 0x7E, True), ("F8_E4M3", 0xFF, False),
        ("F8_E5M2", 0x7B, True), ("F8_E5M2", 0x7C, False), ("F32", 0x7F7FFFFF, True), ("F32", 0xFF800000, False),
    ],
)  # fmt: skip
def test_numbers_that_are_not_finite_are_seen_in_every_format(
    dtype: str, bits: int, finite: bool, tmp_path: Path, corpus_module: Any
) -> None:
    from common.lora_files import with_header

    width = {"F16": 2, "BF16": 2, "F32": 4}.get(dtype, 1)
    count = 5_000_000 // width  # beyond the piece that is read at once
    data = bytes(width * (count - 1)) + bits.to_bytes(width, "little")
    header = {"a.diff": {"dtype": dtype, "shape": [count], "data_offsets": [0, len(data)]}}
    file = tmp_path / "x.safetensors"
    file.write_bytes(with_header(header, data))
    assert open_lora(file).not_finite() == ([] if finite else ["a.diff"])


def test_a_header_whose_length_begins_as_a_pickle_does_is_no_pickle(tmp_path: Path, corpus_module: Any) -> None:
    from common.lora_files import serialise

    tensors = {"lora_unet_conv_in.diff": np.zeros((1, 1), np.float32)}
    bare = len(serialise(tensors, {"x": ""})) - 8 - 4
    content = serialise(tensors, {"x": "y" * (0x0280 - bare)})
    assert content[:2] == b"\x80\x02"
    (tmp_path / "x.safetensors").write_bytes(content)
    assert inspect_lora(tmp_path / "x.safetensors").algorithms == {"full": 1}


def test_no_file_and_a_folder_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        inspect_lora(tmp_path / "absent.safetensors")
    with pytest.raises(RequestError, match="received a folder"):
        inspect_lora(tmp_path)


def test_a_report_needs_no_torch(cases: dict[str, Any]) -> None:
    program = (
        "import sys; from pathlib import Path; from bottega.generation.lora import inspect_lora, Architecture;"
        f"print(inspect_lora(Path({str(cases['kohya-bfloat16'].file)!r})).layout);"
        "print(sorted({'torch', 'safetensors', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["kohya", "[]"]


def test_a_report_is_plain_data(cases: dict[str, Any], sdxl: Architecture) -> None:
    record = inspect_lora(cases["loha-rank4"].file, sdxl).record()
    assert json.loads(json.dumps(record))["share"] == 1.0
