"""Paths that are read from files stay inside their folder, whatever they say."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from bottega.runtime.errors import RequestError
from bottega.runtime.paths import ID, inside, open_file, stays_inside


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
