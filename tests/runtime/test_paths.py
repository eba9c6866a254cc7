"""Paths that are read from files stay inside their folder, whatever they say."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from bottega.models.names import _snapshot
from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import append_jsonl, count_lines, read_json, read_jsonl
from bottega.runtime.paths import ID, inside, open_file, stays_inside
from bottega.student.store import ShardIndex


@pytest.mark.parametrize("name", ["images/a.png", "a.png", "tries/..a/b.png", "not/yet/there.png"])
def test_a_path_below_the_folder_is_given_back(tmp_path, name):
    assert stays_inside(name)
    assert inside(tmp_path, name, "ledger") == tmp_path / name


@pytest.mark.parametrize("name", ["../a.png", "images/../../a.png", "/etc/passwd", "", "images/.."])
def test_a_path_that_leads_out_by_its_text_is_refused(tmp_path, name):
    assert not stays_inside(name)
    with pytest.raises(RequestError, match=r"ledger, output_path must be a path inside .* received"):
        inside(tmp_path, name, "ledger, output_path")


def test_a_path_that_leads_out_by_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="leads out of it"):
        inside(tmp_path / "run", "images/a.png", "ledger")


def test_a_folder_that_is_itself_a_link_is_no_way_out(tmp_path):
    (tmp_path / "real" / "images").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "run", "images/a.png", "ledger") == tmp_path / "run" / "images" / "a.png"


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_a_text_that_no_file_can_be_called_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match="which no file can be called"):
        inside(tmp_path, name, "list")


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "a/" * 2100 + "b"])
def test_a_name_longer_than_a_file_system_allows_is_refused_before_it_is_looked_for(tmp_path, name):
    with pytest.raises(RequestError, match="longer than a file's name can be") as caught:
        inside(tmp_path, name, "list")
    assert len(str(caught.value)) < 700


def test_links_that_go_round_in_a_circle_lead_nowhere(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(RequestError, match="leads out of it"):
        inside(tmp_path, "a/x.png", "list")


def test_in_a_folder_that_the_user_named_links_are_followed_but_the_text_may_not_leave_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "disk")
    place = inside(tmp_path / "set", "images/a.png", "list", own_links=True)
    assert place == tmp_path / "set" / "images" / "a.png"
    with pytest.raises(RequestError, match="leads out of it"):
        inside(tmp_path / "set", "images/../../a.png", "list", own_links=True)


@pytest.mark.parametrize("text", ["a", "000000000139", "a.b-c", "..a", "x" * 200])
def test_an_id_is_one_part_of_a_files_name(text):
    assert re.search(ID, text)


@pytest.mark.parametrize("text", ["", ".", "..", "-", "a_b", "a/b", "../a", "a\n", "a b", "é", "x" * 201, "\x1b[2J"])
def test_what_could_lead_elsewhere_or_break_a_name_is_no_id(text):
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[str, Field(pattern=ID)]).validate_python(text)


def test_an_ordinary_file_is_opened_also_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_file(tmp_path / "link") as stream:
        assert stream.read() == b"content"


def test_what_is_no_ordinary_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    kinds = {"pipe": "named pipe", "link": "named pipe", "socket": "socket", ".": "folder"}
    for name, kind in kinds.items():
        with pytest.raises(OSError, match=f"an ordinary file is wanted, it is a {kind}"):
            open_file(tmp_path / name)
    with pytest.raises(OSError, match="it is a device"):
        open_file("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "absent")


def test_lines_are_not_appended_through_a_link(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("thesis\n")
    (tmp_path / "metrics.jsonl").symlink_to(mine)
    with pytest.raises(StorageError, match="it is a link"):
        append_jsonl(tmp_path / "metrics.jsonl", [{"step": 1}])
    assert mine.read_text() == "thesis\n"
    append_jsonl(tmp_path / "new.jsonl", [{"step": 1}])
    assert (tmp_path / "new.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("read", [read_json, lambda path: list(read_jsonl(path)), count_lines])
def test_a_pipe_under_the_name_of_a_list_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises((StorageError, OSError), match="it is a named pipe"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "link.safetensors"])
def test_an_index_of_features_names_no_shard_outside_of_its_cache(tmp_path, file):
    (tmp_path / "features").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    (tmp_path / "features" / "link.safetensors").symlink_to("../secret.safetensors")
    row = {"kind": "latent", "file": file, "keys": ["a"], "rejected": []}
    append_jsonl(tmp_path / "features" / "index.jsonl", [row])
    with pytest.raises(RequestError, match=r"index\.jsonl: file must be a path inside"):
        ShardIndex(tmp_path / "features")


def test_a_reference_of_the_models_cache_leads_to_no_folder_outside_of_it(tmp_path):
    entry = tmp_path / "models--a--b"
    (entry / "refs").mkdir(parents=True)
    (entry / "snapshots").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (entry / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(MissingError, match="whose snapshot is absent"):
        _snapshot("a/b", entry, None, "bottega models fetch")
