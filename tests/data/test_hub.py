"""Where WikiArt's files come from: the cache, then the mirror, then the hub, and never the network when it is off."""

from __future__ import annotations

import shutil

import pytest

from bottega.data import hub, wikiart
from bottega.data.config import WikiArtConfig
from bottega.runtime.errors import MissingError


@pytest.fixture
def asked(tmp_path, monkeypatch, photo, encoded, write_parquet):
    """The endpoints asked, in order. The hub's client is replaced: its servers are not part of this project."""
    endpoints: list[str] = []
    made = tmp_path / "made.parquet"
    write_parquet(made, [{"bytes": encoded(photo(k)), "path": None} for k in range(5)], [0] * 5, [0] * 5)

    def snapshot_download(repository, *, repo_type, allow_patterns, local_dir, endpoint):
        assert (repository, repo_type, allow_patterns) == ("huggan/wikiart", "dataset", ["*.parquet"])
        endpoints.append(endpoint)
        if "down" in endpoint:
            raise ConnectionError(f"{endpoint} does not answer\nand a long story")
        (local_dir / "data").mkdir(parents=True)
        shutil.copy(made, local_dir / "data" / "train-00000-of-00001.parquet")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return endpoints


def test_the_mirror_of_the_recipe_is_asked_before_the_environments_and_the_hub(tmp_path, asked, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://down.two")
    config = WikiArtConfig(source="raw", mirror="https://down.one")
    assert wikiart.run(config, tmp_path / "out", data_root=tmp_path)["pictures"] == 5
    assert asked == ["https://down.one", "https://down.two", hub.HUB]
    assert wikiart.run(config, tmp_path / "out", data_root=tmp_path)["pictures"] == 5
    assert len(asked) == 3  # the second time it is there


def test_what_every_endpoint_answered_is_told_in_one_line(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hub, "HUB", "https://down.hub")
    with pytest.raises(
        MissingError, match=r"https://down\.hub: ConnectionError .* does not answer\); name a mirror"
    ) as told:
        wikiart.run(WikiArtConfig(source="raw"), tmp_path / "out", data_root=tmp_path)
    assert "\n" not in str(told.value)


def test_offline_nobody_is_asked(tmp_path, asked, monkeypatch):
    with pytest.raises(MissingError, match="the network is off"):
        wikiart.run(WikiArtConfig(source="raw", offline=True), tmp_path / "out", data_root=tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="the network is off"):
        wikiart.run(WikiArtConfig(source="raw"), tmp_path / "out", data_root=tmp_path)
    assert asked == []


def test_missing_shards_are_named():
    from pathlib import Path

    files = [Path(f"train-0000{k}-of-00004-abc.parquet") for k in (0, 2)]
    assert hub.missing_shards(files) == ["00001", "00003"]
    assert hub.missing_shards([Path("all.parquet")]) == []
