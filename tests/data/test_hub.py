"""Where WikiArt's files come from: the cache, then the mirror, then the hub, and never the network when it is off."""

from __future__ import annotations

import shutil
from pathlib import Path

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
    config = WikiArtConfig(source="raw", fetch=True, mirror="https://down.one")
    assert wikiart.run(config, tmp_path / "out", data_root=tmp_path)["pictures"] == 5
    assert asked == ["https://down.one", "https://down.two", hub.HUB]
    assert wikiart.run(config, tmp_path / "out", data_root=tmp_path)["pictures"] == 5
    assert len(asked) == 3  # the second time it is there


def test_what_every_endpoint_answered_is_told_in_one_line(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(hub, "HUB", "https://down.hub")
    with pytest.raises(
        MissingError, match=r"https://down\.hub: ConnectionError .* does not answer\); name a mirror"
    ) as told:
        wikiart.run(WikiArtConfig(source="raw", fetch=True), tmp_path / "out", data_root=tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("fetch", [False, True])
def test_offline_nobody_is_asked(tmp_path, asked, monkeypatch, fetch):
    config = WikiArtConfig(source="raw", fetch=fetch)
    with pytest.raises(MissingError, match="the network is off"):
        wikiart.run(config.model_copy(update={"offline": True}), tmp_path / "out", data_root=tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="the network is off"):
        wikiart.run(config, tmp_path / "out", data_root=tmp_path)
    assert asked == []


def test_nobody_is_asked_unless_told(tmp_path, asked, photo, encoded, write_parquet):
    config = WikiArtConfig(source="raw", mirror="https://any.one")
    with pytest.raises(MissingError, match=r"have them fetched \(about 40 GB\): bottega data wikiart --fetch"):
        wikiart.run(config, tmp_path / "out", data_root=tmp_path)
    assert not (tmp_path / "out").exists()
    cells = [{"bytes": encoded(photo(20 + k)), "path": None} for k in range(5)]
    write_parquet(tmp_path / "raw" / "train-00000-of-00072.parquet", cells, [0] * 5, [0] * 5)
    summary = wikiart.run(config, tmp_path / "out", data_root=tmp_path)
    assert (summary["pictures"], summary["missing_shards"]) == (5, ["00001-00071"])
    assert asked == []


def test_what_the_hub_did_not_give_is_told_and_the_advice_helps(tmp_path, asked, photo, encoded, write_parquet):
    cells = [{"bytes": encoded(photo(20 + k)), "path": None} for k in range(5)]
    write_parquet(tmp_path / "raw" / "train-00000-of-00072.parquet", cells, [0] * 5, [0] * 5)
    config = WikiArtConfig(source="raw", fetch=True)
    with pytest.raises(MissingError, match=r"the shards 00001-00071 .* could not be fetched; .* leave out --fetch"):
        wikiart.run(config, tmp_path / "out", data_root=tmp_path)
    assert asked == [hub.HUB]
    assert (
        wikiart.run(config.model_copy(update={"fetch": False}), tmp_path / "out", data_root=tmp_path)["pictures"] == 10
    )


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["all.parquet"], []),
        (["train-00000-of-00004-abc.parquet", "train-00002-of-00004-abc.parquet"], ["00001", "00003"]),
        ([f"train-{k:05d}-of-00072.parquet" for k in (0, 1, 40, 71)], ["00002-00039", "00041-00070"]),
        (["train-00000-of-00000.parquet"], []),
        (["test-00000-of-00002.parquet", "train-00002-of-00003.parquet"], ["test-00001", "train-00000-00001"]),
        (["data-00001-of-00002.arrow"], ["00000"]),
    ],
)
def test_missing_shards_are_named_as_ranges(names, missing):
    assert hub.missing_shards([Path(name) for name in names]) == missing
