"""Fetching: over HTTP from a server that speaks as the Hub does, mirror first, continued, verified, into its cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.models.hub_server import COMMIT, Hub, digest_of

from bottega.cli.main import main
from bottega.models import transfer
from bottega.models.config import ModelsConfig
from bottega.models.layout import inspect
from bottega.models.names import resolve

BIG = "org/big"  # one file of 5 MB: five pieces of a transfer
SDXL, ADAPTER, CLIP = "stabilityai/stable-diffusion-xl-base-1.0", "h94/IP-Adapter", "openai/clip-vit-large-patch14"


@pytest.fixture(scope="session")
def shelf(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Repositories as they are published: with files around those that are read."""
    root = tmp_path_factory.mktemp("shelf")
    shutil.copytree(published / "sdxl", root / "sdxl")
    (root / "sdxl" / "sd_xl_base_1.0.safetensors").write_bytes(b"a checkpoint in one file")
    (root / "sdxl" / "unet" / "model.onnx").write_bytes(b"another format")
    (root / "sdxl" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    shutil.copytree(published / "ip_adapter", root / "ip" / "sdxl_models")
    shutil.copytree(published / "clip", root / "clip")
    (root / "big").mkdir()
    save_file({"a": np.random.default_rng(0).standard_normal(1_250_000, np.float32)}, root / "big" / "a.safetensors")
    (root / "pickled").mkdir()
    (root / "pickled" / "config.json").write_text("{}")
    (root / "pickled" / "pytorch_model.bin").write_bytes(b"pickled")
    folders = {SDXL: "sdxl", ADAPTER: "ip", CLIP: "clip", BIG: "big", "org/pickled": "pickled"}
    return {name: root / folder for name, folder in folders.items()}


@pytest.fixture
def serve(shelf: dict[str, Path]) -> Iterator[Callable[..., Hub]]:
    started: list[Hub] = []

    def start(**folders: Path) -> Hub:
        hub = Hub({**shelf, **folders})
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(hub)
        return hub

    yield start
    for hub in started:
        hub.shutdown()
        hub.server_close()


@pytest.fixture
def hub(serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub itself, as this process believes; the client's own variables as in a shell of a user."""
    from huggingface_hub import constants

    server = serve()
    monkeypatch.setattr(transfer, "HUB", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return server


def fetch(cache: Path, *words: str) -> int:
    return main(["models", "fetch", *words, "--model-cache", str(cache)])


def blob_of(file: Path) -> str:
    return file.resolve().name


def test_what_a_pipeline_reads_is_fetched_and_nothing_else(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path, SDXL, f"{ADAPTER}/sdxl_models", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["role"], row["faults"]) for row in rows] == [("sdxl", []), ("ip_adapter", [])]
    models = ModelsConfig(cache=str(tmp_path), sdxl=SDXL, ip_adapter=f"{ADAPTER}/sdxl_models")
    assert [found.faults for found in inspect(models)] == [(), ()]
    snapshot = resolve(SDXL, cache=str(tmp_path))
    served = hub.files(SDXL)
    fetched = {p.relative_to(snapshot).as_posix(): p for p in snapshot.rglob("*") if p.is_file()}
    assert set(served) - set(fetched) == {
        "sd_xl_base_1.0.safetensors", "unet/model.onnx", "unet/diffusion_pytorch_model.bin",
    }  # fmt: skip
    assert all(path.read_bytes() == served[name].read_bytes() for name, path in fetched.items())
    assert all(blob_of(path) == digest_of(name, served[name].read_bytes())[0] for name, path in fetched.items())


def test_the_hubs_own_client_finds_what_was_fetched(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    assert fetch(tmp_path, CLIP) == 0
    theirs = hf_hub_download(CLIP, "model.safetensors", cache_dir=tmp_path, local_files_only=True)
    assert Path(theirs) == resolve(CLIP, cache=str(tmp_path)) / "model.safetensors"


def test_the_mirror_is_asked_first_and_the_hub_where_it_fails(
    hub: Hub, serve: Callable[..., Hub], tmp_path: Path
) -> None:
    mirror = serve()
    assert fetch(tmp_path / "a", CLIP, "--mirror", mirror.address) == 0
    assert len(mirror.log) > 0
    assert hub.log == []
    mirror.down = True
    assert fetch(tmp_path / "b", CLIP, "--mirror", mirror.address) == 0
    assert resolve(CLIP, cache=str(tmp_path / "b")).name == COMMIT


def test_the_environments_endpoint_stands_between_mirror_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://b.example/")
    assert transfer.choose_endpoints("https://a.example") == ["https://a.example", "https://b.example", transfer.HUB]
    assert transfer.choose_endpoints() == ["https://b.example", transfer.HUB]


def test_a_broken_transfer_is_continued_by_the_next_call_from_the_byte_where_it_stopped(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.break_at = 3 << 20
    assert fetch(tmp_path, f"{BIG}/a.safetensors") == 1
    said = capsys.readouterr().err
    partial = next(tmp_path.glob("models--org--big/blobs/*.incomplete"))
    have = partial.stat().st_size
    assert 1 << 20 <= have <= 3 << 20
    assert f"{have} of {hub.files(BIG)['a.safetensors'].stat().st_size} bytes are here" in said
    assert "run the same command again" in said
    hub.down, hub.log = False, []
    assert fetch(tmp_path, f"{BIG}/a.safetensors") == 0
    assert hub.sent("cdn/org/big/a.safetensors") == [("GET", f"bytes={have}-")]
    assert resolve(f"{BIG}/a.safetensors", cache=str(tmp_path)).read_bytes() == (
        hub.files(BIG)["a.safetensors"].read_bytes()
    )
    assert not list(tmp_path.rglob("*.incomplete"))


def test_the_hub_gives_the_rest_of_what_the_mirror_broke_off(
    hub: Hub, serve: Callable[..., Hub], tmp_path: Path
) -> None:
    mirror = serve()
    mirror.break_at = 3 << 20
    assert fetch(tmp_path, f"{BIG}/a.safetensors", "--mirror", mirror.address) == 0
    ((method, range_),) = hub.sent("cdn/org/big/a.safetensors")
    assert method == "GET"
    assert range_ is not None
    assert int(range_.removeprefix("bytes=").rstrip("-")) >= 1 << 20


def test_a_killed_fetch_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.pause = 0.1
    code = (
        "import sys; from bottega.models import transfer; from bottega.cli.main import main\n"
        f"transfer.HUB = {hub.address!r}\n"
        f"sys.exit(main(['models', 'fetch', {BIG + '/a.safetensors'!r}, '--model-cache', {str(tmp_path)!r}]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "HF_HUB_OFFLINE": "0"})
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size >= 1 << 20 for p in tmp_path.glob("*/blobs/*.incomplete")):
        assert child.poll() is None and time.monotonic() < deadline, "the fetch ended, or never began"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = next(tmp_path.glob("*/blobs/*.incomplete")).stat().st_size
    hub.pause, hub.log = 0.0, []
    assert fetch(tmp_path, f"{BIG}/a.safetensors") == 0
    assert hub.sent("cdn/org/big/a.safetensors") == [("GET", f"bytes={have}-")]


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 1)])
def test_a_wrong_hash_is_fetched_once_more_and_then_an_error(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], times: int, code: int
) -> None:
    hub.damage = times
    assert fetch(tmp_path, CLIP) == code
    assert len(hub.sent("cdn/" + CLIP + "/model.safetensors")) == 2
    if code:
        assert "model.safetensors: fetched twice, and its hash was not" in capsys.readouterr().err
        assert not list(tmp_path.rglob("*.incomplete"))
        assert not list(tmp_path.rglob("refs/main"))  # no name means what is not whole


def test_a_damaged_file_of_the_mirror_is_taken_from_the_hub(
    hub: Hub, serve: Callable[..., Hub], tmp_path: Path
) -> None:
    mirror = serve()
    mirror.damage = 99
    assert fetch(tmp_path, CLIP, "--mirror", mirror.address) == 0
    assert [method for method, _ in hub.sent("model.safetensors")] == ["GET", "GET"]  # the redirect and the file


def test_what_is_here_is_verified_and_only_what_is_damaged_is_fetched_again(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fetch(tmp_path, CLIP) == 0
    hub.log = []
    assert fetch(tmp_path, CLIP) == 0
    assert [path for _, path, _ in hub.log if "/api/" not in path] == []
    blob = (resolve(CLIP, cache=str(tmp_path)) / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert fetch(tmp_path, CLIP) == 0
    assert {path for _, path, _ in hub.log if "/api/" not in path} == {
        f"/{CLIP}/resolve/{COMMIT}/model.safetensors",
        f"/cdn/{CLIP}/model.safetensors",
    }
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert "its content does not match its hash" in caplog.text


def test_a_list_without_hashes_is_completed_by_asking_for_each_file(hub: Hub, tmp_path: Path) -> None:
    hub.bare = True
    assert fetch(tmp_path, CLIP) == 0
    served = hub.files(CLIP)["model.safetensors"].read_bytes()
    assert blob_of(resolve(CLIP, cache=str(tmp_path)) / "model.safetensors") == hashlib.sha256(served).hexdigest()


def test_a_disk_that_is_too_small_is_said_before_a_byte_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("bottega.models.fetch.shutil.disk_usage", lambda place: usage._replace(free=4_000_000))
    assert fetch(tmp_path / "cache", f"{BIG}/a.safetensors") == 1
    assert "0.01 GB are to be fetched and 0.00 GB are free" in capsys.readouterr().err
    assert hub.sent("a.safetensors") == []
    monkeypatch.setattr("bottega.models.fetch.shutil.disk_usage", lambda place: usage._replace(free=6_000_000))
    assert fetch(tmp_path / "cache", f"{BIG}/a.safetensors") == 0


def test_a_disk_that_fills_up_midway_is_no_fault_of_the_server(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = transfer._CountingFile.write

    def full(self: Any, piece: bytes) -> int:
        if self.tell() >= 2 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, piece)

    monkeypatch.setattr(transfer._CountingFile, "write", full)
    assert fetch(tmp_path, f"{BIG}/a.safetensors") == 1
    assert "the disk is full: free some space and run the same command again" in capsys.readouterr().err
    monkeypatch.undo()
    assert next(tmp_path.glob("*/blobs/*.incomplete")).stat().st_size == 2 << 20


def test_a_dry_run_says_what_would_be_fetched_and_fetches_nothing(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path / "cache", BIG + "/a.safetensors", CLIP, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    sizes = [hub.files(BIG)["a.safetensors"].stat().st_size]
    sizes.append(sum(p.stat().st_size for n, p in hub.files(CLIP).items()))
    assert [row["bytes_to_fetch"] for row in told["models"]] == sizes
    assert told["bytes_to_fetch"] == sum(sizes)
    assert not (tmp_path / "cache").exists()
    assert hub.sent("a.safetensors") == []


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("org/pickled", 2, "read from safetensors only, and the repository has only pickled ones (pytorch_model.bin)"),
        ("org/nowhere", 2, "org/nowhere: no such repository or revision"),
        (f"{BIG}/b.safetensors", 2, "the repository has no file b.safetensors"),
        ("just-a-word", 2, "only an `org/name"),
        ("style_classifier", 2, "models.style_classifier: the recipe names none"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_the_reason(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, said: str
) -> None:
    assert fetch(tmp_path, name) == code
    assert said in capsys.readouterr().err
    assert not [path for _, path, _ in hub.log if "resolve" in path]


def test_an_adapter_that_does_not_fit_its_teacher_is_said_after_the_fetch(
    hub: Hub, published: Path, make: dict[str, Callable[..., Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(published / "ip_adapter" / "image_encoder", tmp_path / "other" / "image_encoder")
    make["ip_adapter"](tmp_path / "other" / "ip-adapter_sdxl.safetensors", published / "sdxl", width=28)
    hub.folders["org/other"] = tmp_path / "other"
    assert fetch(tmp_path / "cache", SDXL, "org/other") == 2
    assert "the adapter (plain layout) needs an image encoder of projection_dim 28" in capsys.readouterr().err


def test_terms_that_must_be_accepted_are_told_where_the_hub_itself_asks_for_it(
    hub: Hub, serve: Callable[..., Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = serve()
    mirror.gated = True
    assert fetch(tmp_path / "a", CLIP, "--mirror", mirror.address) == 0
    hub.gated = True
    assert fetch(tmp_path / "b", CLIP, "--mirror", mirror.address) == 2
    assert f"its terms must be accepted first, at {hub.address}/{CLIP}" in capsys.readouterr().err


def test_without_names_all_of_the_recipe_is_fetched_but_what_it_reads_from_folders(
    hub: Hub, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    models = {"sdxl": SDXL, "ip_adapter": f"{ADAPTER}/sdxl_models", "clip": str(published / "clip")}
    recipe.write_text(json.dumps({"name": "r", "models": models}))
    assert fetch(tmp_path / "cache", "--recipe", str(recipe), "--json") == 0
    assert [row["role"] for row in json.loads(capsys.readouterr().out)] == ["sdxl", "ip_adapter"]
    cached = f"models.cache={tmp_path / 'cache'}"
    assert main(["models", "verify", str(recipe), "--set", cached, "--hash"]) == 0


def test_a_missing_part_of_a_pipeline_is_named_before_anything_is_fetched(
    hub: Hub, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(published / "sdxl", tmp_path / "torn")
    (tmp_path / "torn" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub.folders["org/torn"] = tmp_path / "torn"
    assert fetch(tmp_path / "cache", "org/torn") == 2
    assert "org/torn: vae of the repository lacks weights" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_model_stays_at_the_commit_that_was_fetched_until_the_newest_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    assert fetch(tmp_path, CLIP) == 0
    hub.commit = "f" * 40
    hub.log = []
    assert fetch(tmp_path, CLIP) == 0
    assert [path for _, path, _ in hub.log] == [f"/api/models/{CLIP}/revision/{COMMIT}"]
    assert fetch(tmp_path, f"{CLIP}@main") == 0
    assert resolve(CLIP, cache=str(tmp_path)).name == "f" * 40


def test_a_server_that_lists_files_outside_the_repository_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = hub.files(CLIP)
    monkeypatch.setattr(hub, "files", lambda repository: {**served, "../../x.json": served["config.json"]})
    assert fetch(tmp_path, CLIP) == 1
    assert "lists a file '../../x.json'" in capsys.readouterr().err


def test_the_users_token_goes_to_the_hub_and_never_to_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import build_hf_headers

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sent = {e: build_hf_headers(token=transfer._token(e)).get("authorization") for e in (transfer.HUB, "https://m.x")}
    assert sent == {transfer.HUB: "Bearer hf_secret", "https://m.x": None}


def test_offline_forbids_fetching(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(tmp_path, CLIP) == 2
    assert "HF_HUB_OFFLINE=1" in capsys.readouterr().err
    assert hub.log == []
