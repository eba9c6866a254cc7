"""The published protocol: outputs found by name, measured once, and compared with published tables only where that
is right. benchmarks/styleid_protocol.py holds the numbers against the published script."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from tests.models.random_weights import random_networks
from typer.testing import CliRunner

from bottega.cli.evaluate import app
from bottega.evaluation import protocol_pictures, protocol_scoring
from bottega.evaluation.frechet import FeatureMoments, art_fid, frechet_distance
from bottega.evaluation.jackknife import CrossedFeatures, crossed_jackknife
from bottega.evaluation.protocol import METRICS, ProtocolRequest, run_protocol
from bottega.evaluation.protocol_pictures import differing_pictures, find_pictures, published_pictures
from bottega.evaluation.protocol_records import ProtocolSummary
from bottega.evaluation.protocol_scoring import KeyedLines
from bottega.evaluation.protocol_table import protocol_markdown, verdict
from bottega.models.config import ModelsConfig
from bottega.models.inception import InceptionFeatures
from bottega.models.perceptual import Lpips
from bottega.runtime.errors import MissingError, PictureError, RequestError

CONTENTS, STYLES, SIDE = 4, 5, 80


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> ModelsConfig:
    folder = tmp_path_factory.mktemp("networks") / "weights"
    random_networks.write_all(folder, [random_networks.picture(100 + number, 96, 96) for number in range(4)])
    return ModelsConfig(
        lpips=str(folder),
        inception=str(folder / "art_inception.safetensors"),
        vgg19=str(folder / "vgg19.safetensors"),
        device="cpu",
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contents, styles, and the outputs of a method that mixes them."""
    root = tmp_path_factory.mktemp("protocol")
    for kind, count, first in (("cnt", CONTENTS, 0), ("sty", STYLES, 50)):
        for number in range(count):
            save(root / "data" / kind / f"{number:02d}.png", random_networks.picture(first + number, 96, SIDE))
    for c in range(CONTENTS):
        for s in range(STYLES):
            mixed = random_networks.picture(c, 96, SIDE) * 0.5 + random_networks.picture(50 + s, 96, SIDE) * 0.4
            save(root / "outputs" / f"{c:02d}_stylized_{s:02d}.png", mixed.astype(np.uint8))
    return root


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 pixels take Inception a second each; what is resized, and by what, is the same."""
    monkeypatch.setattr(protocol_pictures, "SIDE", 96)


@pytest.fixture(scope="module")
def summary(published: Path, networks: ModelsConfig, tmp_path_factory: pytest.TempPathFactory) -> ProtocolSummary:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol_pictures, "SIDE", 96)
        return run_protocol("styleid-800", request(published), networks, tmp_path_factory.mktemp("judged"))


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def request(root: Path, **changed: object) -> ProtocolRequest:
    return ProtocolRequest(**{"folder": root / "outputs", "data": root / "data", **changed})  # type: ignore[arg-type]


def values(summary: ProtocolSummary, row: str) -> dict[str, float]:
    return {name: cell["value"] for name, cell in summary["rows"][row]["metrics"].items() if "value" in cell}


def test_the_numbers_are_those_of_the_pictures_one_by_one(
    summary: ProtocolSummary, published: Path, networks: ModelsConfig
) -> None:
    lpips, inception = (
        Lpips(Path(networks.lpips or ""), "cpu"),
        InceptionFeatures(Path(networks.inception or ""), "cpu"),
    )

    def resized(file: Path) -> np.ndarray:
        # 96 × 80 to a short side of 96: the long one is int(96 · 96 / 80).
        return np.asarray(Image.open(file).resize((115, 96), Image.Resampling.BILINEAR))

    distances, drawn, styles = [], [], []
    for c in range(CONTENTS):
        content = resized(published / "data" / "cnt" / f"{c:02d}.png")
        for s in range(STYLES):
            output = resized(published / "outputs" / f"{c:02d}_stylized_{s:02d}.png")
            distances.append(float(lpips(output[None], content[None])[0]))
            drawn.append(inception(output[None])[0])
            styles.append(inception(resized(published / "data" / "sty" / f"{s:02d}.png")[None])[0])
    fid = frechet_distance(FeatureMoments.of(np.stack(drawn)), FeatureMoments.of(np.stack(styles)))
    found = values(summary, "output")
    assert found["lpips"] == pytest.approx(np.mean(distances), rel=1e-6)
    assert found["fid"] == pytest.approx(fid, rel=1e-6)
    assert found["art_fid"] == pytest.approx(art_fid(float(np.mean(distances)), fid), rel=1e-6)
    assert found.keys() == METRICS.keys()


def test_controls_stand_in_their_order_and_intervals_hold_their_numbers(summary: ProtocolSummary) -> None:
    content, style = values(summary, "content"), values(summary, "style")
    assert content["lpips"] == content["lpips_grey"] == 0
    assert style["histogram"] == 0
    assert abs(style["fid"]) < 1e-3 * content["fid"]
    assert all(order["ordered"] for name, order in summary["order"].items())
    for cell in summary["rows"]["output"]["metrics"].values():
        low, high = cell["low"], cell["high"]
        assert low is not None and high is not None
        assert low < cell["value"] < high
    assert summary["rows"].keys() == {"output", "content", "style", "colours"}


def test_it_is_not_comparable_and_says_why(summary: ProtocolSummary) -> None:
    assert not summary["comparable"]
    said = verdict(summary)
    assert said.startswith("not comparable: ")
    for reason in ("contents are 4 pictures", "styles are 5", "alexnet-owt-7be5be79.pth", "art inception"):
        assert reason in said
    assert ("SIDE" not in said and "512" in summary["cfsd_differences"][0]) or "96 × 80" in summary["cfsd_differences"][
        0
    ]
    assert said in protocol_markdown(summary)


def test_what_was_measured_is_not_measured_again_and_a_new_network_measures_its_own_alone(
    published: Path, networks: ModelsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    original = protocol_scoring._ProtocolMeasurer._compute

    def counted(self: object, name: str, *given: object) -> float:
        calls.append(name)
        return original(self, name, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol_scoring._ProtocolMeasurer, "_compute", counted)
    wanted = request(published, rows=("output",))
    without_cfsd = networks.model_copy(update={"vgg19": None})
    first = run_protocol("styleid-800", wanted, without_cfsd, tmp_path)
    assert set(calls) == {"lpips", "lpips_grey"} and len(calls) == 2 * CONTENTS * STYLES
    # A kill in the middle: half of the lines are there, the last one torn.
    file = tmp_path / "measured.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:10]) + lines[10][:40])
    calls.clear()
    again = run_protocol("styleid-800", wanted, without_cfsd, tmp_path)
    assert len(calls) == 2 * (CONTENTS * STYLES - 10)
    assert again["rows"] == first["rows"]
    calls.clear()
    both = run_protocol("styleid-800", wanted, networks, tmp_path)
    assert calls == ["cfsd"] * (CONTENTS * STYLES)
    assert values(both, "output").items() > values(first, "output").items()


def test_a_changed_output_is_measured_again(published: Path, networks: ModelsConfig, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "copy")
    wanted = request(tmp_path / "copy", rows=("output",))
    first = run_protocol("styleid-800", wanted, networks, tmp_path / "judged")
    save(tmp_path / "copy" / "outputs" / "01_stylized_02.png", random_networks.picture(9, 96, SIDE))
    second = run_protocol("styleid-800", wanted, networks, tmp_path / "judged")
    assert all(values(first, "output")[name] != values(second, "output")[name] for name in METRICS)


def test_absent_weights_are_named_with_their_published_file_and_their_numbers_left_out(
    published: Path, tmp_path: Path
) -> None:
    found = run_protocol("styleid-800", request(published, rows=("output",)), ModelsConfig(device="cpu"), tmp_path)
    cells = found["rows"]["output"]["metrics"]
    assert values(found, "output").keys() == {"histogram"}
    assert "7be5be791159472b" in cells["lpips"]["status"] and "df73285e" in cells["lpips"]["status"]
    assert "art_inception.pth" in cells["fid"]["status"]
    assert "dcbb9e9d" in cells["cfsd"]["status"]
    assert "unavailable" in cells["art_fid"]["status"]
    with pytest.raises(RequestError, match="only safetensors"):
        (tmp_path / "vgg19.pth").write_bytes(b"x")
        models = ModelsConfig(device="cpu", vgg19=str(tmp_path / "vgg19.pth"))
        run_protocol("styleid-800", request(published), models, tmp_path)


def test_of_kept_lines_the_last_whole_one_of_a_key_counts(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"

    def opened() -> KeyedLines:
        return KeyedLines(file, lambda line: line.get("name"))

    lines = opened()
    assert lines.get("a") is None
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        lines.add({"name": name, "value": value})
    assert lines.get("a") == opened().get("a") == {"name": "a", "value": 3}
    # A damaged line counts as not there, and a torn one neither; what is written next is not glued to it.
    file.write_bytes(file.read_bytes().replace(b'"value":2', b'"value":7').replace(b'"value": 2', b'"value": 7'))
    with file.open("ab") as stream:
        stream.write(b'{"name": "c", "val')
    damaged = opened()
    assert "b" not in damaged and "c" not in damaged and "a" in damaged
    damaged.add({"name": "c", "value": 4})
    assert opened().get("c") == damaged.get("c") == {"name": "c", "value": 4}


# --- the pictures -----------------------------------------------------------------------------------------------------


def test_missing_outputs_are_an_error_that_names_them_or_left_out_of_every_row(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(published, root)
    (root / "outputs" / "02_stylized_03.png").unlink()
    with pytest.raises(MissingError, match=r"1 of 20 outputs are not there.*02_stylized_03"):
        run_protocol("styleid-800", request(root), ModelsConfig(device="cpu"), tmp_path / "judged")
    found = run_protocol(
        "styleid-800", request(root, allow_missing=True), ModelsConfig(device="cpu"), tmp_path / "judged"
    )
    assert found["missing"] == ["02_stylized_03"]
    assert {row["pictures"] for row in found["rows"].values()} == {19}
    assert {row["metrics"]["histogram"]["n"] for row in found["rows"].values()} == {19}
    assert any("missing" in reason for reason in found["differences"])


@pytest.mark.parametrize("pattern", [*protocol_pictures.PATTERNS, "of {style}, {content}"])
def test_outputs_are_found_by_any_pattern(published: Path, tmp_path: Path, pattern: str) -> None:
    for file in (published / "outputs").iterdir():
        content, style = file.stem.split("_stylized_")
        target = tmp_path / f"{pattern.format(content=content, style=style)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    save(tmp_path / "grid.png", np.zeros((8, 8, 3), np.uint8))
    given = None if pattern in protocol_pictures.PATTERNS else pattern
    found = find_pictures(tmp_path, published / "data", given, allow_missing=False)
    assert (found.pattern, len(found.cells), found.others) == (pattern, CONTENTS * STYLES, ("grid",))


def test_what_cannot_be_meant_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\{content\}"):
        find_pictures(published / "outputs", published / "data", "{style}", allow_missing=False)
    with pytest.raises(MissingError, match="git clone"):
        find_pictures(published / "outputs", tmp_path, None, allow_missing=False)
    with pytest.raises(RequestError, match="styleid-800"):
        run_protocol("styleid", request(published), ModelsConfig(), tmp_path)
    shutil.copytree(published / "outputs", tmp_path / "twice")
    save(tmp_path / "twice" / "00_stylized_00.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(RequestError, match="one name"):
        find_pictures(tmp_path / "twice", published / "data", None, allow_missing=False)
    (tmp_path / "twice" / "00_stylized_00.jpg").unlink()
    (tmp_path / "twice" / "00_stylized_00.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match="00_stylized_00"):
        run_protocol(
            "styleid-800", request(published, folder=tmp_path / "twice"), ModelsConfig(device="cpu"), tmp_path / "out"
        )


def test_the_published_pictures_are_known_by_their_hashes(tmp_path: Path) -> None:
    known = published_pictures()
    assert (len(known.contents), len(known.styles)) == (20, 40)
    assert len({*known.contents.values(), *known.styles.values()}) == 60
    for kind, names in (("cnt", known.contents), ("sty", known.styles)):
        for name in names:
            save(tmp_path / kind / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "outputs" / "00_stylized_00.png", np.zeros((8, 8, 3), np.uint8))
    pictures = find_pictures(tmp_path / "outputs", tmp_path, None, allow_missing=True)
    reasons = differing_pictures(pictures, known)
    assert [reason.split()[0] for reason in reasons] == ["20", "40", "799"]


# --- the interval of a distance ---------------------------------------------------------------------------------------


def test_the_distance_of_what_is_left_is_that_of_its_moments() -> None:
    rng = np.random.default_rng(0)
    styles = rng.normal(size=(STYLES, 64)).astype(np.float32)
    crossed = CrossedFeatures([f"c{k}" for k in range(CONTENTS)], [f"s{k}" for k in range(STYLES)])
    drawn: dict[tuple[int, int], np.ndarray] = {}
    for c in range(CONTENTS):
        for s in range(STYLES):
            drawn[c, s] = (styles[s] * 0.7 + rng.normal(size=64) + 0.3 * c).astype(np.float32)
            crossed.add(f"c{c}", f"s{s}", drawn[c, s], styles[s])

    def direct(kept: list[tuple[int, int]]) -> float:
        one = FeatureMoments.of(np.stack([drawn[cell] for cell in kept]))
        return frechet_distance(one, FeatureMoments.of(np.stack([styles[s] for _, s in kept])))

    assert crossed.distance() == pytest.approx(direct(list(drawn)), rel=1e-9)
    without_content = crossed.without(content=2)
    assert without_content.distance() == pytest.approx(direct([cell for cell in drawn if cell[0] != 2]), rel=1e-9)
    assert without_content.present()[2].sum() == 0
    assert crossed.without(style=1).distance() == pytest.approx(
        direct([cell for cell in drawn if cell[1] != 1]), rel=1e-9
    )
    estimate = crossed_jackknife(crossed.distance(), crossed, lambda kept: kept.distance())
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low < estimate.value < estimate.high
    # Of a number that is the mean of all pairs the jackknife is the usual standard error, of both factors.
    matrix = rng.normal(size=(CONTENTS, STYLES))
    mean = crossed_jackknife(float(matrix.mean()), crossed, lambda kept: float(matrix[kept.present() > 0].mean()))
    variance = matrix.mean(1).var(ddof=1) / CONTENTS + matrix.mean(0).var(ddof=1) / STYLES
    assert mean.high is not None
    assert mean.high - mean.value == pytest.approx(3.182446 * np.sqrt(variance), rel=1e-5)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["protocol styleid-800", "--protocol styleid-800", "--protocol=styleid-800"])
def test_every_spelling_of_the_command_judges_the_folder(published: Path, tmp_path: Path, spelling: str) -> None:
    words = [
        *spelling.split(),
        str(published / "outputs"),
        "--data",
        str(published / "data"),
        "--output",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, [*words, "--no-controls", "--set", "models.device=cpu", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"].keys() == {"output"}


def test_the_command_prints_the_numbers_and_what_they_compare_with(published: Path, tmp_path: Path) -> None:
    words = ["protocol", "styleid-800", str(published / "outputs"), "--data", str(published / "data")]
    done = CliRunner().invoke(app, [*words, "--no-controls", "--output", str(tmp_path), "--set", "models.device=cpu"])
    assert done.exit_code == 0, done.output
    assert "histogram loss" in done.stdout and "not comparable: " in done.stdout
    assert "FID             unavailable: " in done.stdout
    assert isinstance(app, typer.Typer)
