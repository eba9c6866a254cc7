"""Paths that are read from files stay inside their folder, whatever they say."""

from __future__ import annotations

import pytest

from bottega.runtime.errors import RequestError
from bottega.runtime.paths import inside, stays_inside


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
