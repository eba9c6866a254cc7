"""The full recipe says what the protocol and the ladder say, and names models in roles that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bottega.cli.main import main
from bottega.models.layout import ROLES
from bottega.models.names import fetch_command, hub_name
from bottega.recipe import Recipe, load_recipe

FULL = Path(__file__).parents[2] / "recipes" / "sdxl_pixart.yaml"


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(FULL)


def test_the_teacher_is_the_stabilised_protocol(recipe: Recipe) -> None:
    teacher = recipe.teacher
    assert (teacher.steps, teacher.guidance_scale, teacher.strength, teacher.ip_adapter_scale) == (25, 3.5, 0.40, 0.30)
    assert (teacher.seeds, teacher.sampler, teacher.size) == ((0, 1, 2), "ddim", 512)
    assert teacher.departures() == {}


def test_the_student_has_the_published_rates(recipe: Recipe) -> None:
    student, loop = recipe.student, recipe.student.loop
    assert (loop.learning_rate, loop.warmup_steps, loop.steps, loop.checkpoint_every) == (1e-4, 500, 20_000, 2000)
    assert (student.adapter.layers, student.batch_size, student.global_batch, student.fill50k_slots) == (4, 1, 4, 1)


def test_the_ladder_in_the_head_is_made_of_overrides_that_the_recipe_takes() -> None:
    head = FULL.read_text().split("\nname:")[0]
    sets = re.findall(r"--set (\S+)", head)
    assert len(sets) == 4
    grown = load_recipe(FULL, [s for s in sets if "200000" in s or "66667" in s])
    assert (grown.pairs.train, grown.student.loop.steps) == (66_667, 200_000)


def test_a_run_without_the_world_and_with_one_root(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.world is None
    root = recipe.data_root(tmp_path)
    places = [(root / s.source).resolve() for s in (recipe.data.coco, recipe.data.wikiart, recipe.data.fill50k) if s]
    here = Path.cwd()
    assert places == [here / "dataset_cocostuff", here / "data" / "wikiart" / "raw", here / "dataset_fill50k"]


def test_every_model_comes_with_a_command(recipe: Recipe) -> None:
    names = {role: getattr(recipe.models, role) for role in ROLES}
    assert {role for role, name in names.items() if name} == {
        "sdxl",
        "ip_adapter",
        "pixart",
        "clip",
        "structure_encoder",
    }
    for name in filter(None, names.values()):
        assert hub_name(name) is not None
        assert fetch_command(name) == f"bottega models fetch {name}"


def test_models_verify_names_what_is_missing_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", str(FULL), "--set", f"models.cache={tmp_path}"]) == 1
    out = capsys.readouterr()
    assert out.out.count("bottega models fetch") == 5
    assert "verdict: 5 faults; first: absent model" in out.out


def test_models_list_shows_what_is_there(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        word
        for role in ("sdxl", "ip_adapter", "clip", "structure_encoder")
        for word in ("--set", f"models.{role}={published / role}")
    ]
    assert main(["models", "list", str(FULL), *sets, "--set", "models.pixart=null", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in rows] == ["sdxl", "ip_adapter", "clip", "structure_encoder"]
    assert all(row["bytes"] > 0 and not row["faults"] for row in rows)
    assert main(["models", "verify", str(FULL), *sets, "--set", "models.pixart=null"]) == 0
    assert "4 models of" in capsys.readouterr().out


def test_hashing_finds_a_blob_whose_content_has_changed(tmp_path: Path) -> None:
    import hashlib

    from bottega.models.weights import hash_faults

    blobs = tmp_path / "blobs"
    blobs.mkdir()
    good, bad = (blobs / hashlib.sha256(text).hexdigest() for text in (b"good", b"bad"))
    good.write_bytes(b"good")
    bad.write_bytes(b"changed")
    links = [tmp_path / "a", tmp_path / "b"]
    for link, blob in zip(links, (good, bad), strict=True):
        link.symlink_to(blob)
    assert [fault.split(":")[0] for fault in hash_faults(links)] == [str(links[1])]


def test_hashing_finds_a_small_file_that_git_names_otherwise(tmp_path: Path) -> None:
    import subprocess

    from bottega.models.weights import hash_faults

    (tmp_path / "blobs").mkdir()
    (tmp_path / "config.json").write_text('{"a": 1}')
    command = ["git", "hash-object", str(tmp_path / "config.json")]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    blob = (tmp_path / "config.json").rename(tmp_path / "blobs" / name)
    assert hash_faults([blob]) == []
    blob.write_text('{"a": 2}')
    assert len(hash_faults([blob])) == 1


def test_a_run_directory_says_which_files_it_was_made_with(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    import yaml

    from bottega.runtime.files import sha256_file

    shutil.copytree(published / "clip", tmp_path / "clip")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "models": {"clip": str(tmp_path / "clip")}}))
    weights = tmp_path / "clip" / "model.safetensors"
    facts = weights.stat()
    files = {
        "model.safetensors": {"sha256": sha256_file(weights), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    }
    (run / "provenance.json").write_text(json.dumps({"weights": {"clip": {"sha256": "-", "files": files}}}))
    assert main(["models", "verify", str(run), "--hash"]) == 0
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main(["models", "verify", str(run)]) == 0  # the header is whole: only the hash can tell
    assert main(["models", "verify", str(run), "--hash"]) == 1
    assert "its content is not what the run was made with" in capsys.readouterr().out


def test_model_cache_stands_in_for_the_recipes_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", str(FULL), "--model-cache", str(tmp_path / "there"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(f"--model-cache {tmp_path / 'there'}" in row["faults"][0] for row in rows)
