"""Damaged caches of many kinds: each is named, and its cure, followed as it is printed, is seen to work.

What a cure fetches comes from a server on this machine that speaks as the Hub does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.models.hub_server import COMMIT, Hub, digest_of

from bottega.cli.main import main
from bottega.models import transfer
from bottega.models.cache import CacheReport, CacheRequest, check_cache
from bottega.models.names import hub_cache, resolve
from bottega.runtime.findings import Severity

TINY, SHARDED, PIPE, ADAPTER = "org/tiny", "org/sharded", "org/pipe", "org/adapter"
OTHER = "f" * 40


def write_weights(file: Path, *names: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(file.name)))
    save_file({name: rng.standard_normal((100, 25), np.float32) for name in names}, file)


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four repositories in the layouts that are published, with little in them."""
    root = tmp_path_factory.mktemp("shelf")
    tiny = root / "tiny"
    write_weights(tiny / "model.safetensors", "a", "b")
    (tiny / "config.json").write_text('{"hidden_size": 4}')
    (tiny / "README.md").write_text("what this is")

    sharded = root / "sharded"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for tensor, shard in shards.items():
        write_weights(sharded / shard, tensor)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (sharded / "config.json").write_text('{"hidden_size": 5}')

    pipe = root / "pipe"
    for part in ("unet", "vae"):
        write_weights(pipe / part / "diffusion_pytorch_model.safetensors", part)
        (pipe / part / "config.json").write_text(json.dumps({"part": part}))
    for part in ("text_encoder", "text_encoder_2"):
        write_weights(pipe / part / "model.safetensors", part)
        (pipe / part / "config.json").write_text(json.dumps({"part": part}))
    for part in ("tokenizer", "tokenizer_2"):
        write_tokenizer(pipe / part)
    (pipe / "scheduler").mkdir()
    (pipe / "scheduler" / "scheduler_config.json").write_text('{"steps": 1}')
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    (pipe / "model_index.json").write_text(json.dumps({part: ["diffusers", "X"] for part in parts}))

    adapter = root / "adapter" / "sdxl_models"
    write_weights(
        adapter / "ip-adapter_sdxl.safetensors",
        "image_proj.proj.weight",
        "image_proj.norm.weight",
        "ip_adapter.1.to_k_ip.weight",
    )
    write_weights(adapter / "image_encoder" / "model.safetensors", "encoder")
    (adapter / "image_encoder" / "config.json").write_text('{"projection_dim": 4}')
    return {TINY: tiny, SHARDED: sharded, PIPE: pipe, ADAPTER: root / "adapter"}


@pytest.fixture
def hub(shelf: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub, as this process believes, with nothing else that a user's environment could say."""
    from huggingface_hub import constants

    server = Hub(dict(shelf))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setattr(transfer, "HUB", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in ("HF_ENDPOINT", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "DIFFUSERS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield server
    server.shutdown()
    server.server_close()


@dataclass
class Cache:
    """A cache that the environment names, with the repositories that are laid into it."""

    place: Path
    shelf: dict[str, Path]

    def entry(self, name: str) -> Path:
        return self.place / f"models--{name.replace('/', '--')}"

    def snapshot(self, name: str, commit: str = COMMIT) -> Path:
        return self.entry(name) / "snapshots" / commit

    def lay(self, name: str, *, commit: str = COMMIT, place: Path | None = None) -> Path:
        """A repository as the Hub's client lays it out; returns its snapshot."""
        entry = (place or self.place) / f"models--{name.replace('/', '--')}"
        for folder in ("blobs", "refs", f"snapshots/{commit}"):
            (entry / folder).mkdir(parents=True, exist_ok=True)
        (entry / "refs" / "main").write_text(commit)
        source = self.shelf[name]
        for file in (path for path in source.rglob("*") if path.is_file()):
            digest, _ = digest_of(file.name, file.read_bytes())
            blob = entry / "blobs" / digest
            shutil.copy(file, blob)
            link = entry / "snapshots" / commit / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        return entry / "snapshots" / commit

    def check(self, *wanted: str, hash_files: bool = True) -> CacheReport:
        return check_cache(CacheRequest(hub_cache(), wanted=wanted, hash_files=hash_files))


@pytest.fixture
def cache(tmp_path: Path, shelf: dict[str, Path], hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return Cache(tmp_path / "home" / "hub", shelf)


def follow(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a command says, as a shell would; `bottega` itself runs in this process, where the server is the Hub."""
    for part in command.split(" && "):
        words = shlex.split(part)
        if words[0] == "bottega":
            assert main(words[1:]) == 0, part
        elif words[0] == "export":
            name, _, value = words[1].partition("=")
            monkeypatch.setenv(name, value)
        else:
            line = part.removeprefix("sudo ")  # a shell of this test may have no sudo, and is root where that matters
            subprocess.run(["bash", "-c", line], check=True)


def worst(report: CacheReport) -> list[tuple[str, Severity]]:
    return [(finding.name, finding.severity) for finding in report.findings if finding.severity > Severity.INFO]


def age(file: Path) -> None:
    """Let a file be an hour old: a download that grew a moment ago may still be running."""
    os.utime(file, (1.7e9, 1.7e9))


# --- the damages ---------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    blob = file.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])


def flipped(cache: Cache, name: str, path: str) -> None:
    blob = (cache.lay(name) / path).resolve()
    content = bytearray(blob.read_bytes())
    content[-2] ^= 1
    blob.write_bytes(content)


def large_blob_with_other_content(cache: Cache) -> None:
    flipped(cache, TINY, "model.safetensors")


def small_blob_with_other_content(cache: Cache) -> None:
    blob = (cache.lay(TINY) / "config.json").resolve()
    blob.write_text(blob.read_text().replace("4", "5"))


def blob_that_nobody_reads_with_other_content(cache: Cache) -> None:
    flipped(cache, TINY, "README.md")


def dangling_weights(cache: Cache) -> None:
    (cache.lay(TINY) / "model.safetensors").resolve().unlink()


def dangling_readme(cache: Cache) -> None:
    (cache.lay(TINY) / "README.md").resolve().unlink()


def copied_without_blobs(cache: Cache) -> None:
    cache.lay(PIPE)
    shutil.rmtree(cache.entry(PIPE) / "blobs")


def dangling_part_of_an_adapter(cache: Cache) -> None:
    (cache.lay(ADAPTER) / "sdxl_models" / "image_encoder" / "model.safetensors").resolve().unlink()


def links_to_another_machine(cache: Cache) -> None:
    link = cache.lay(TINY) / "model.safetensors"
    target = f"/mnt/other machine/blobs/{link.resolve().name}"
    link.unlink()
    link.symlink_to(target)


def link_to_itself(cache: Cache) -> None:
    link = cache.lay(TINY) / "model.safetensors"
    link.unlink()
    link.symlink_to(link.name)


def truncated_weights(cache: Cache) -> None:
    cut(cache.lay(TINY) / "model.safetensors")


def truncated_shard(cache: Cache) -> None:
    cut(cache.lay(SHARDED) / "model-00002-of-00002.safetensors")


def empty_weights(cache: Cache) -> None:
    (cache.lay(TINY) / "model.safetensors").resolve().write_bytes(b"")


def broken_json(cache: Cache) -> None:
    cut_file = (cache.lay(PIPE) / "unet" / "config.json").resolve()
    cut_file.write_text(cut_file.read_text()[:-3])


def pointer_of_git_lfs(cache: Cache) -> None:
    link = cache.lay(TINY) / "model.safetensors"
    digest = link.resolve().name
    link.unlink()
    link.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 4000\n")


def absent_shard(cache: Cache) -> None:
    shard = cache.lay(SHARDED) / "model-00001-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink()


def absent_part(cache: Cache) -> None:
    shutil.rmtree(cache.lay(PIPE) / "tokenizer_2")


def absent_vocabulary(cache: Cache) -> None:
    (cache.lay(PIPE) / "tokenizer" / "vocab.json").unlink()


def configuration_without_weights(cache: Cache) -> None:
    (cache.lay(TINY) / "model.safetensors").unlink()


def empty_snapshot(cache: Cache) -> None:
    snapshot = cache.lay(TINY)
    shutil.rmtree(snapshot)
    snapshot.mkdir()


def empty_folder(cache: Cache) -> None:
    cache.entry(TINY).mkdir(parents=True)
    cache.lay(SHARDED)


def only_a_reference(cache: Cache) -> None:
    cache.lay(TINY)
    shutil.rmtree(cache.entry(TINY) / "snapshots")
    shutil.rmtree(cache.entry(TINY) / "blobs")


def blobs_without_a_snapshot(cache: Cache) -> None:
    cache.lay(TINY)
    shutil.rmtree(cache.entry(TINY) / "snapshots")


def half_finished(cache: Cache) -> None:
    weights = cache.lay(TINY) / "model.safetensors"
    blob = weights.resolve()
    partial = blob.with_name(f"{blob.name}.incomplete")
    partial.write_bytes(blob.read_bytes()[:700])
    age(partial)
    blob.unlink()
    weights.unlink()


def first_download_broke_off(cache: Cache) -> None:
    half_finished(cache)
    shutil.rmtree(cache.entry(TINY) / "snapshots")
    shutil.rmtree(cache.entry(TINY) / "refs")
    for blob in cache.entry(TINY).glob("blobs/*"):
        if blob.suffix != ".incomplete":
            blob.unlink()


def leftover_of_a_download(cache: Cache) -> None:
    blob = (cache.lay(TINY) / "model.safetensors").resolve()
    partial = blob.with_name(f"{blob.name}.0a1b2c3d.incomplete")  # as newer clients of the Hub call it
    partial.write_bytes(b"a part")
    age(partial)


def missing_reference(cache: Cache) -> None:
    cache.lay(TINY)
    shutil.rmtree(cache.entry(TINY) / "refs")


def two_snapshots_and_no_reference(cache: Cache) -> None:
    missing_reference(cache)
    shutil.copytree(cache.snapshot(TINY), cache.snapshot(TINY, OTHER), symlinks=True)
    (cache.snapshot(TINY, OTHER) / "README.md").unlink()


def reference_to_an_absent_snapshot(cache: Cache) -> None:
    cache.lay(TINY)
    (cache.entry(TINY) / "refs" / "main").write_text(OTHER)


def empty_reference(cache: Cache) -> None:
    cache.lay(TINY)
    (cache.entry(TINY) / "refs" / "main").write_text("")


def reference_with_a_line_end(cache: Cache) -> None:
    cache.lay(TINY)
    (cache.entry(TINY) / "refs" / "main").write_text(f"{COMMIT}\n")


def flat_copy(cache: Cache) -> None:
    shutil.copytree(cache.shelf[PIPE], cache.entry(PIPE))


def plain_name(cache: Cache) -> None:
    shutil.copytree(cache.shelf[TINY], cache.place / "org" / "tiny")


def snapshots_is_a_file(cache: Cache) -> None:
    cache.lay(TINY)
    shutil.rmtree(cache.entry(TINY) / "snapshots")
    (cache.entry(TINY) / "snapshots").write_text("a Windows link")


def other_letter_case(cache: Cache) -> None:
    cache.lay(TINY)
    cache.entry(TINY).rename(cache.place / "models--Org--Tiny")


def twice_by_letter_case(cache: Cache) -> None:
    cache.lay(TINY)
    shutil.copytree(cache.entry(TINY), cache.place / "models--Org--Tiny", symlinks=True)


def one_folder_too_deep(cache: Cache) -> None:
    cache.lay(SHARDED)
    cache.lay(TINY, place=cache.place / "hub")


def cache_is_a_file(cache: Cache) -> None:
    cache.place.parent.mkdir(parents=True)
    cache.place.write_text("")


def cache_is_a_dangling_link(cache: Cache) -> None:
    cache.place.parent.mkdir(parents=True)
    cache.place.symlink_to(cache.place.parent / "unmounted disk" / "hub")


def empty_cache_above_a_full_one(cache: Cache) -> None:
    cache.lay(TINY, place=cache.place / "hub")  # HF_HUB_CACHE names what HF_HOME should


def empty_cache_below_a_full_one(cache: Cache) -> None:
    cache.place.mkdir(parents=True)
    cache.lay(TINY, place=cache.place.parent)  # fetched with HF_HUB_CACHE=…/home, looked for in …/home/hub


def empty_folder_beside_a_full_one(cache: Cache) -> None:
    cache.lay(SHARDED)
    cache.entry(TINY).mkdir(parents=True)
    cache.lay(TINY, place=cache.place.parent.parent / "xdg" / "huggingface" / "hub")


def in_another_cache(cache: Cache) -> None:
    cache.lay(SHARDED)
    cache.lay(TINY, place=cache.place.parent.parent / "xdg" / "huggingface" / "hub")


def absent_model(cache: Cache) -> None:
    cache.lay(SHARDED)


def unused_blob(cache: Cache) -> None:
    cache.lay(TINY)
    content = b"of an older commit"
    (cache.entry(TINY) / "blobs" / hashlib.sha256(content).hexdigest()).write_bytes(content)


DAMAGES: list[tuple[str, Severity, str, Callable[[Cache], None]]] = [
    ("wrong content", Severity.ERROR, TINY, large_blob_with_other_content),
    ("wrong content", Severity.ERROR, TINY, small_blob_with_other_content),
    ("wrong content", Severity.WARNING, TINY, blob_that_nobody_reads_with_other_content),
    ("dangling link", Severity.ERROR, TINY, dangling_weights),
    ("dangling link", Severity.WARNING, TINY, dangling_readme),
    ("dangling link", Severity.ERROR, PIPE, copied_without_blobs),
    ("dangling link", Severity.ERROR, f"{ADAPTER}/sdxl_models", dangling_part_of_an_adapter),
    ("link out of the cache", Severity.ERROR, TINY, links_to_another_machine),
    ("dangling link", Severity.ERROR, TINY, link_to_itself),
    ("truncated file", Severity.ERROR, TINY, truncated_weights),
    ("truncated file", Severity.ERROR, SHARDED, truncated_shard),
    ("empty file", Severity.ERROR, TINY, empty_weights),
    ("broken JSON", Severity.ERROR, PIPE, broken_json),
    ("pointer of Git LFS", Severity.ERROR, TINY, pointer_of_git_lfs),
    ("absent shard", Severity.ERROR, SHARDED, absent_shard),
    ("incomplete snapshot", Severity.ERROR, PIPE, absent_part),
    ("incomplete snapshot", Severity.ERROR, PIPE, absent_vocabulary),
    ("incomplete snapshot", Severity.ERROR, TINY, configuration_without_weights),
    ("empty snapshot", Severity.ERROR, TINY, empty_snapshot),
    ("downloaded but empty", Severity.ERROR, TINY, empty_folder),
    ("downloaded but empty", Severity.ERROR, TINY, only_a_reference),
    ("blobs without a snapshot", Severity.ERROR, TINY, blobs_without_a_snapshot),
    ("half-finished download", Severity.ERROR, TINY, half_finished),
    ("half-finished download", Severity.ERROR, TINY, first_download_broke_off),
    ("leftover of a download", Severity.WARNING, TINY, leftover_of_a_download),
    ("missing reference", Severity.WARNING, TINY, missing_reference),
    ("several snapshots and no reference", Severity.ERROR, TINY, two_snapshots_and_no_reference),
    ("reference to an absent snapshot", Severity.ERROR, TINY, reference_to_an_absent_snapshot),
    ("reference to an absent snapshot", Severity.ERROR, TINY, empty_reference),
    ("reference with a line end", Severity.WARNING, TINY, reference_with_a_line_end),
    ("flat copy", Severity.ERROR, PIPE, flat_copy),
    ("model under its plain name", Severity.WARNING, TINY, plain_name),
    ("file in place of a folder", Severity.ERROR, TINY, snapshots_is_a_file),
    ("other letter case", Severity.ERROR, TINY, other_letter_case),
    ("twice by letter case", Severity.WARNING, TINY, twice_by_letter_case),
    ("models one folder too deep", Severity.WARNING, TINY, one_folder_too_deep),
    ("cache is a file", Severity.ERROR, TINY, cache_is_a_file),
    ("cache is a dangling link", Severity.ERROR, TINY, cache_is_a_dangling_link),
    ("cache is elsewhere", Severity.ERROR, TINY, empty_cache_above_a_full_one),
    ("cache is elsewhere", Severity.ERROR, TINY, empty_cache_below_a_full_one),
    ("empty beside a full copy", Severity.ERROR, TINY, empty_folder_beside_a_full_one),
    ("model in another cache", Severity.ERROR, TINY, in_another_cache),
    ("absent model", Severity.ERROR, TINY, absent_model),
    ("unused blobs", Severity.INFO, TINY, unused_blob),
]


@pytest.mark.parametrize(("kind", "severity", "model", "damage"), DAMAGES, ids=[row[3].__name__ for row in DAMAGES])
def test_a_damage_is_named_and_its_cure_works_as_printed(
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    severity: Severity,
    model: str,
    damage: Callable[[Cache], None],
) -> None:
    damage(cache)
    before = sorted(path for path in cache.place.parent.rglob("*"))
    report = cache.check(model)
    assert sorted(path for path in cache.place.parent.rglob("*")) == before, "a look must change nothing"
    found = next((finding for finding in report.findings if finding.name == kind), None)
    assert found is not None, [finding.name for finding in report.findings]
    assert found.severity == severity
    assert found.command is not None and found.cure and found.evidence
    # The first command is followed, then the next look's first, as a user would: one cure may uncover another damage.
    follow(found.command, monkeypatch)
    for _ in range(3):
        report = cache.check(model)
        assert kind not in [finding.name for finding in report.findings]
        left = [finding for finding in report.findings if finding.severity > Severity.INFO]
        if not left:
            break
        assert left[0].command is not None
        follow(left[0].command, monkeypatch)
    assert worst(cache.check(model)) == []
    assert resolve(model).exists()


def test_a_whole_cache_has_no_finding_and_every_blob_is_read(cache: Cache) -> None:
    for name in (TINY, SHARDED, PIPE, ADAPTER):
        cache.lay(name)
    report = cache.check(TINY, SHARDED, PIPE, f"{ADAPTER}/sdxl_models")
    assert report.findings == ()
    assert report.unjudged == ()
    assert report.repositories == (ADAPTER, PIPE, SHARDED, TINY)
    assert report.hashed == sum(1 for _ in cache.place.rglob("snapshots/*/**/*") if _.is_symlink())


def test_what_takes_reading_or_has_no_hash_is_said_to_be_not_judged(cache: Cache) -> None:
    snapshot = cache.lay(TINY)
    link = snapshot / "config.json"
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content)
    (cache.place / "datasets--org--pictures").mkdir()
    said = {item.what for item in cache.check(hash_files=False).unjudged}
    assert said == {f"the content of 1 files of {TINY}", "the content of 2 blobs", "1 datasets"}


def test_a_download_that_grew_a_moment_ago_is_not_judged(cache: Cache) -> None:
    half_finished(cache)
    partial = next(cache.place.rglob("*.incomplete"))
    os.utime(partial)
    report = cache.check()
    assert "half-finished download" not in [finding.name for finding in report.findings]
    assert str(partial) in [item.what for item in report.unjudged]


def test_an_old_snapshot_that_no_reference_names_is_a_warning_at_most(cache: Cache) -> None:
    cache.lay(TINY)
    old = cache.snapshot(TINY, OTHER)
    old.mkdir()
    (old / "model.safetensors").symlink_to("../../blobs/absent")
    (found,) = cache.check(TINY).findings
    assert (found.name, found.severity) == ("dangling link", Severity.WARNING)


def test_a_cache_that_an_option_names_gets_commands_with_that_option(cache: Cache, tmp_path: Path) -> None:
    place = tmp_path / "my cache"
    cache.lay(TINY, place=place)
    (place / "models--org--tiny" / "snapshots" / COMMIT / "model.safetensors").resolve().unlink()
    (found,) = check_cache(CacheRequest(place, is_named=True)).findings
    assert found.command == f"bottega models fetch org/tiny --model-cache '{place}'"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that belongs to somebody else")
@pytest.mark.parametrize(("owner", "kind"), [(0, "wrong owner"), (65534, "wrong permissions")])
def test_files_that_may_not_be_read(cache: Cache, monkeypatch: pytest.MonkeyPatch, owner: int, kind: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bottega-cache-") as folder:
        place = Path(folder)
        place.chmod(0o755)
        entry = cache.lay(TINY, place=place).parents[1]
        for path in (entry, *entry.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
        (entry / "blobs").chmod(0o000)
        request = CacheRequest(place, is_named=True)
        os.seteuid(65534)
        try:
            (found,) = check_cache(request).findings
        finally:
            os.seteuid(0)
        assert found.name == kind
        assert found.command is not None
        follow(found.command, monkeypatch)
        os.seteuid(65534)
        try:
            assert check_cache(request).findings == ()
        finally:
            os.seteuid(0)


def test_a_command_works_in_a_real_shell(cache: Cache, tmp_path: Path, hub: Hub) -> None:
    """Quoting and the console script: what a user pastes, and not what this process understands."""
    place = tmp_path / "it's my cache"
    cache.lay(TINY, place=place)
    (place / "models--org--tiny" / "snapshots" / COMMIT / "config.json").resolve().write_bytes(b"")
    (found,) = check_cache(CacheRequest(place, is_named=True)).findings
    script = tmp_path / "bin" / "bottega"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m bottega "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
    }
    assert found.command is not None
    subprocess.run(["bash", "-c", found.command], env=environment, check=True, capture_output=True)
    assert check_cache(CacheRequest(place, is_named=True, hash_files=True)).findings == ()


# --- on the command line -------------------------------------------------------------------------------------------


def test_doctor_cache_and_models_verify_say_the_same(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dangling_weights(cache)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"name": "r", "models": {"clip": TINY}}))
    assert main(["doctor", "cache", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert main(["models", "verify", str(recipe), "--json"]) == 1
    verified = json.loads(capsys.readouterr().out)
    assert [finding["name"] for finding in told["findings"]] == ["dangling link"]
    assert verified["findings"] == told["findings"]
    assert verified["models"][0]["role"] == "clip"
    follow_up = told["findings"][0]["command"]
    assert main(shlex.split(follow_up)[1:]) == 0
    capsys.readouterr()
    assert main(["doctor", "cache", "--hash"]) == 0
    assert "verdict: no fault found" in capsys.readouterr().out


def test_a_wrong_request_is_exit_code_2(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", str(tmp_path / "none.yaml")]) == 2
    assert main(["doctor", "cache", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err


def test_all_looks_at_models_that_the_recipe_does_not_name(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated_shard(cache)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"name": "r"}))
    assert main(["models", "verify", str(recipe)]) == 0
    assert main(["models", "verify", str(recipe), "--all"]) == 1
    assert "truncated file (error)" in capsys.readouterr().out
