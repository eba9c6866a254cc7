"""Torn, pickled and incomplete weights are told from whole ones by their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from bottega.models.weights import find_weights, read_header
from bottega.runtime.errors import MissingError, RequestError, StorageError

WHOLE = save(
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(5, np.float16)}, metadata={"format": "pt"}
)


def test_a_whole_file_tells_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(WHOLE)
    header = read_header(tmp_path / "m.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == {"a": ("F32", (2, 3)), "b": ("F16", (5,))}
    assert header.metadata == {"format": "pt"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    file = tmp_path_factory.mktemp("cut") / "m.safetensors"
    file.write_bytes(WHOLE[:length])
    with pytest.raises(StorageError, match="put a whole copy in its place"):
        read_header(file)


@pytest.mark.parametrize(
    "content", [WHOLE + b"x", b"\x80\x04pickle, not tensors" * 4, b"<html>404</html>", struct.pack("<Q", 2) + b"[]"]
)
def test_what_is_not_a_whole_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        read_header(tmp_path / "m.safetensors")


def test_a_header_that_gives_a_tensor_too_few_bytes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(StorageError, match=r"'a' of shape \[2, 3\] is given 8 bytes"):
        read_header(tmp_path / "m.safetensors")


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        save_file({name: np.zeros(1)}, folder / name)


def test_plain_files_are_taken_before_variants_and_variants_where_alone(tmp_path: Path) -> None:
    _touch(tmp_path, "diffusion_pytorch_model.fp16.safetensors")
    assert find_weights(tmp_path) == ((tmp_path / "diffusion_pytorch_model.fp16.safetensors",), "fp16")
    _touch(tmp_path, "diffusion_pytorch_model.safetensors")
    assert find_weights(tmp_path) == ((tmp_path / "diffusion_pytorch_model.safetensors",), None)


def test_shards_come_from_the_index_and_an_absent_one_is_named(tmp_path: Path) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": shards[1], "b": shards[0], "c": shards[0]}})
    )
    _touch(tmp_path, shards[0])
    with pytest.raises(MissingError, match=r"1 of 2 shards are missing, first model-00002-of-00002\.safetensors"):
        find_weights(tmp_path)
    _touch(tmp_path, shards[1])
    assert [f.name for f in find_weights(tmp_path).files] == shards


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "diffusion_pytorch_model.PT"])
def test_pickled_weights_are_refused_for_what_they_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(RequestError, match="read from safetensors only"):
        find_weights(tmp_path)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"model\.safetensors, diffusion_pytorch_model\.safetensors"):
        find_weights(tmp_path)


def test_a_header_tells_where_its_tensors_lie(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(WHOLE)
    header = read_header(tmp_path / "m.safetensors")
    first, last = header.places["a"]
    assert np.array_equal(np.frombuffer(WHOLE[first:last], np.float32), np.arange(6))
