"""Names of models are found on this machine or refused with the command that gets them; the network is never asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bottega.models.names import fetch_command, hub_cache, hub_name, resolve
from bottega.runtime.errors import MissingError, RequestError, StorageError

REPO = "h94/IP-Adapter"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source" / "sdxl_models").mkdir(parents=True)
    (tmp_path / "source" / "sdxl_models" / "a.safetensors").write_bytes(b"a")
    (tmp_path / "source" / "config.json").write_text("{}")
    return tmp_path / "source"


def test_a_folder_is_found_beside_the_recipe_first_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("recipe", "work"):
        (tmp_path / place / "clip").mkdir(parents=True)
    (tmp_path / "work" / "dino").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert resolve("clip", tmp_path / "recipe") == tmp_path / "recipe" / "clip"
    assert resolve("dino", tmp_path / "recipe").resolve() == tmp_path / "work" / "dino"


def test_a_package_name_lies_inside_the_installed_package() -> None:
    import bottega

    assert resolve("bottega:models") == Path(str(bottega.__file__)).parent / "models"
    with pytest.raises(MissingError, match="bottega miniature build"):
        resolve("bottega:miniature/weights/no-such-model")
    with pytest.raises(RequestError, match="inside the package"):
        resolve("bottega:../../etc")


@pytest.mark.parametrize("ending", ["", "\n", " \r\n"])
def test_a_reference_with_or_without_newline_leads_to_its_snapshot(
    tmp_path: Path, source: Path, lay_out: Callable[..., Path], ending: str
) -> None:
    snapshot = lay_out(tmp_path / "hub", REPO, source, ending=ending)
    assert resolve(REPO, cache=str(tmp_path / "hub")) == snapshot
    assert resolve(f"{REPO}/sdxl_models", cache=str(tmp_path / "hub")) == snapshot / "sdxl_models"
    assert resolve(f"{REPO}/sdxl_models/a.safetensors", cache=str(tmp_path / "hub")).read_bytes() == b"a"


def test_the_hub_client_itself_finds_what_we_find(tmp_path: Path, source: Path, lay_out: Callable[..., Path]) -> None:
    from huggingface_hub import snapshot_download

    snapshot = lay_out(tmp_path / "hub", REPO, source, ending="")
    theirs = snapshot_download(REPO, cache_dir=tmp_path / "hub", local_files_only=True)
    assert Path(theirs) == snapshot == resolve(REPO, cache=str(tmp_path / "hub"))


def test_without_refs_the_only_snapshot_is_taken_and_one_of_several_must_be_named(
    tmp_path: Path, source: Path, lay_out: Callable[..., Path]
) -> None:
    snapshot = lay_out(tmp_path / "hub", REPO, source)
    (snapshot.parent.parent / "refs" / "main").unlink()
    assert resolve(REPO, cache=str(tmp_path / "hub")) == snapshot
    (snapshot.parent / "ffff").mkdir()
    with pytest.raises(RequestError, match="2 snapshots and no refs/main"):
        resolve(REPO, cache=str(tmp_path / "hub"))
    assert resolve(f"{REPO}@{snapshot.name}", cache=str(tmp_path / "hub")) == snapshot


def test_a_reference_to_an_absent_snapshot_is_missing(
    tmp_path: Path, source: Path, lay_out: Callable[..., Path]
) -> None:
    snapshot = lay_out(tmp_path / "hub", REPO, source)
    snapshot.rename(snapshot.parent / "other")
    with pytest.raises(MissingError, match="snapshot is absent; get it: bottega models fetch h94/IP-Adapter"):
        resolve(REPO, cache=str(tmp_path / "hub"))


def test_links_that_lead_nowhere_are_named(tmp_path: Path, source: Path, lay_out: Callable[..., Path]) -> None:
    snapshot = lay_out(tmp_path / "hub", REPO, source)
    (snapshot / "sdxl_models" / "a.safetensors").resolve().unlink()
    with pytest.raises(StorageError, match=r"1 files in the cache are links that lead nowhere, first .*a\.safetensors"):
        resolve(REPO, cache=str(tmp_path / "hub"))
    with pytest.raises(StorageError, match="lead nowhere"):
        resolve(f"{REPO}/sdxl_models/a.safetensors", cache=str(tmp_path / "hub"))


def test_what_is_absent_comes_with_the_exact_command(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"get it: bottega models fetch org/name@v1 --model-cache \S+$"):
        resolve("org/name@v1", cache=str(tmp_path))
    assert fetch_command("h94/IP-Adapter/sdxl_models") == "bottega models fetch h94/IP-Adapter/sdxl_models"
    assert fetch_command("org/name", cache="/a b") == "bottega models fetch org/name --model-cache '/a b'"
    assert fetch_command("../folder").startswith("name another folder than ../folder, or an `org/name`")


def test_a_name_on_the_hub_has_a_repository_an_inside_and_a_revision() -> None:
    assert hub_name("org/name") == ("org/name", "", None)
    assert hub_name("h94/IP-Adapter/sdxl_models/a.safetensors@v1") == (
        "h94/IP-Adapter",
        "sdxl_models/a.safetensors",
        "v1",
    )
    assert hub_name("org/../../etc") is None
    assert hub_name("word") is None


def test_a_cache_that_is_one_folder_too_high_is_recognised(
    tmp_path: Path, source: Path, lay_out: Callable[..., Path]
) -> None:
    lay_out(tmp_path / "home" / "hub", REPO, source)
    with pytest.raises(MissingError, match=r"set models\.cache or HF_HUB_CACHE to the latter"):
        resolve(REPO, cache=str(tmp_path / "home"))


@pytest.mark.parametrize(
    "name", ["./nowhere", "nowhere", "/no/such/folder", "org/../../etc", "a b/c", "org/name@../.."]
)
def test_what_can_be_neither_folder_nor_repository_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such folder"):
        resolve(name, tmp_path, cache=str(tmp_path))


def test_the_cache_is_where_the_hub_client_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub_cache() == tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "x"))
    assert hub_cache() == tmp_path / "x"
    assert hub_cache("y") == Path("y")
