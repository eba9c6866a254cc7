"""The page of a run at every moment of it: empty, partial, failed, complete, broken."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottega.cli.main import main
from bottega.data.records import Pair
from bottega.evaluation.checkpoint_records import CheckpointsRecord
from bottega.evaluation.checkpoints import Compared, compare
from bottega.evaluation.grid import Grid
from bottega.quality.grading import CHECK_NAMES
from bottega.report import sheets
from bottega.report.evaluation import EvaluationSummary
from bottega.report.format import between, figure
from bottega.report.page import _CAUSES, run
from bottega.report.run_directory import RunDirectory
from bottega.report.sheets import Thumbnails
from bottega.runtime.errors import MissingError
from bottega.runtime.files import read_jsonl, write_json, write_png, write_text
from bottega.runtime.records import to_record
from bottega.runtime.seeds import numpy_rng
from bottega.training.diagnosis import diagnose
from bottega.visual.colour_scale import contrast

from .conftest import CAPTION, STAGES, Believable, load


class Reader(HTMLParser):
    """Collects what a browser would fetch, ids, links inside the page, pictures without words, and open elements."""

    VOID = ("meta", "img", "br", "link", "input", "hr", "path", "use")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.jumps: list[str] = []
        self.silent: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.fetched += [
            str(found[name]) for name in ("src", "href", "srcset", "data", "action", "xlink:href") if found.get(name)
        ]
        self.jumps += [str(found["href"])[1:] for _ in [0] if str(found.get("href", "")).startswith("#")]
        self.ids += [str(found["id"])] if found.get("id") else []
        self.silent += [tag] if tag == "img" and not found.get("alt") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def complete(believable: Believable) -> Path:
    directory = believable()
    run(directory)
    return directory


def read(directory: Path) -> Reader:
    return Reader((directory / "report.html").read_text(encoding="utf-8"))


def test_an_empty_run_directory_gives_a_page_on_which_every_stage_is_pending(tmp_path: Path) -> None:
    page = run(tmp_path)
    reader = read(tmp_path)
    assert page == tmp_path / "report.html"
    assert "Nothing has been done yet" in reader.text
    for name in ("teacher", "student", "evaluation"):
        assert f"Pending: stage {name}" in reader.text
    assert not (tmp_path / "contact_sheet.png").exists()


def test_a_directory_that_is_not_there_is_a_request_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="bottega run"):
        run(tmp_path / "nowhere")


@pytest.mark.parametrize("until", ["pairs", "quality", "teacher", "student"])
def test_a_run_under_way_shows_what_is_there_and_says_what_is_pending(believable: Believable, until: str) -> None:
    directory = believable(until, contents=3, styles=3)
    run(directory)
    reader = read(directory)
    done = STAGES[: STAGES.index(until) + 1]
    assert reader.text.count("✓") >= len(done)
    assert "Pending: stage evaluation" in reader.text
    assert ("targets can be learned from" in reader.text) == ("teacher" in done)
    assert ("It is learning" in reader.text) == ("student" in done)
    assert (directory / "contact_sheet.png").exists() == ("teacher" in done)


def test_a_failed_stage_is_the_headline_with_its_error_line(believable: Believable) -> None:
    directory = believable("quality", contents=2, styles=2)
    write_json(directory / "teacher" / "error.json", {"error": "the disk is full: free some <space>"})
    run(directory)
    text = read(directory).text
    assert "Stopped: stage teacher failed" in text
    assert "the disk is full: free some <space>" in text


def test_an_oracle_is_never_shown_as_a_teacher_that_paints(tmp_path: Path) -> None:
    for source, told in (("oracle", True), ("sdxl", False)):
        write_text(tmp_path / "recipe.yaml", f"name: x\nteacher: {{source: {source}}}\n")
        run(tmp_path)
        assert ("is the oracle" in read(tmp_path).text) == told


def test_what_was_done_goes_before_what_the_recipe_asks_for(tmp_path: Path) -> None:
    for asked, done in (("oracle", "sdxl"), ("sdxl", "oracle")):
        write_text(tmp_path / "recipe.yaml", f"name: x\nteacher: {{source: {asked}}}\n")
        write_json(tmp_path / "teacher/stage.json", {"summary": {"source": done}})
        assert RunDirectory(tmp_path).is_oracle == (done == "oracle")
        rows = {"teacher": {"title": "teacher", "source": done}}
        found = to_record(EvaluationSummary, {"rows": rows}, "a summary")
        assert found.is_oracle(asked == "oracle") == (done == "oracle")
        unsaid = to_record(EvaluationSummary, {"rows": {"teacher": {"title": "teacher"}}}, "an older summary")
        assert unsaid.is_oracle(asked == "oracle") == (asked == "oracle")


def test_a_sheets_heading_says_who_painted() -> None:
    assert sheets.headings(oracle=True)["teacher"] == "oracle (drawn truth)"
    assert sheets.headings(oracle=False)["teacher"] == "teacher (SDXL)"


def test_an_older_evaluation_of_an_oracle_is_shown_as_drawn_truths(complete: Path, monkeypatch) -> None:
    """Its summary calls the row "teacher"; the recipe beside it says what that was."""
    seen: list[Mapping[str, str]] = []
    write = sheets.write_sheet
    monkeypatch.setattr(
        "bottega.report.sheets.write_sheet", lambda *a, heads, **o: seen.append(heads) or write(*a, heads=heads, **o)
    )
    recipe = complete / "recipe.yaml"
    before = recipe.read_text(encoding="utf-8")
    try:
        write_text(recipe, "name: x\nteacher: {source: oracle}\n")
        run(complete)
        text = read(complete).text
    finally:
        write_text(recipe, before)
        run(complete)
    assert "oracle (drawn truth)" in text
    assert "SDXL with the IP-Adapter" not in text
    assert seen[0]["teacher"] == "oracle (drawn truth)"


def test_a_complete_run_shows_every_number_of_its_summary_with_interval_and_n(complete: Path) -> None:
    reader, summary = read(complete), load(complete / "evaluation/summary.json")
    cell = summary["rows"]["student"]["metrics"]["palette"]
    assert f"{cell['value']:.1f}" in reader.text
    assert f"[{cell['low']:.1f}, {cell['high']:.1f}]" in reader.text
    for row in summary["rows"].values():
        assert row["title"] in reader.text
    html = (complete / "report.html").read_text(encoding="utf-8")
    assert f"n = {cell['n']}: {cell['contents']} contents × {cell['styles']} styles" in html


def test_arrows_point_the_way_that_is_better(complete: Path) -> None:
    text = read(complete).text.replace("\xa0", " ")
    for title, arrow in (("style gain", "↑"), ("palette", "↓"), ("distance to truth", "↓"), ("objects preserved", "↑")):
        assert re.search(rf"{title} +{arrow}", text), title


def test_what_is_unavailable_is_said_in_words_and_listed_as_not_measured(complete: Path) -> None:
    text = read(complete).text
    listed = text[text.index("What was not measured") :]
    assert "unavailable: no weights at <hub>" in text
    assert "structure: needs a structure encoder" in listed
    assert "pair c101_p80: left out of every row, truncated" in listed


def test_the_page_fetches_nothing_and_holds_no_script(complete: Path) -> None:
    reader = read(complete)
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in reader.fetched)
    html = (complete / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\(\s*['\"]?(?!#)", html)
    assert "@import" not in html
    assert "script" not in reader.tags


def test_the_page_is_well_formed_its_links_arrive_and_no_picture_is_without_words(complete: Path) -> None:
    reader = read(complete)
    assert reader.open == []
    assert set(reader.jumps) <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.silent == []


def test_captions_are_shown_as_text_never_as_markup(complete: Path) -> None:
    html = (complete / "report.html").read_text(encoding="utf-8")
    assert CAPTION in read(complete).text
    assert "<script>alert" not in html
    assert "<b>red</b>" not in html


def test_survival_counts_agree_with_the_ledger(complete: Path) -> None:
    import sqlite3

    with sqlite3.connect(complete / "teacher/ledger.sqlite") as db:
        accepted = db.execute("SELECT COUNT(*) FROM best WHERE grade <> 'C'").fetchone()[0]
        targets = db.execute("SELECT COUNT(DISTINCT target) FROM tries").fetchone()[0]
        saved = db.execute("SELECT COUNT(*) FROM best WHERE grade <> 'C' AND try_index > 0").fetchone()[0]
    db.close()
    text = read(complete).text
    assert f"{accepted} of {targets} targets can be learned from" in text
    assert f"{saved} targets were saved by a retry" in text
    assert "1 could not be begun" in text


def test_the_first_and_last_pictures_of_the_training_are_shown_and_no_other(complete: Path) -> None:
    html = (complete / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r"After ([\d,]+) steps: content \| target \| drawn in its style \| drawn in another", html)
    assert shown == ["60", "600"]
    drawn = re.findall(r'src="data:image/webp;base64,([^"]+)" style="width: 100%"', html)
    levels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean() for data in drawn]
    assert levels == pytest.approx([20, 200], abs=2)


def test_all_findings_of_a_training_can_be_read(complete: Path) -> None:
    rows = read_jsonl(complete / "training" / "metrics.jsonl")
    findings = diagnose(rows)
    text = read(complete).text
    assert len(findings) > 1
    for finding in findings:
        assert finding.name in text and finding.evidence in text


def test_the_contact_sheet_lies_beside_the_page_with_all_five_columns(complete: Path) -> None:
    with Image.open(complete / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 2 * 5 * 128
        assert np.asarray(sheet).std() > 20


def test_the_same_run_directory_gives_the_same_page_byte_for_byte(complete: Path) -> None:
    first = (complete / "report.html").read_bytes()
    run(complete)
    assert (complete / "report.html").read_bytes() == first


def test_the_page_names_no_place_of_the_machine_it_was_made_on(complete: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(complete, moved)
    write_text(moved / "evaluation" / "summary.json", "{")
    run(moved)
    html = (moved / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in html
    assert str(complete) not in html


def test_torn_and_foreign_files_leave_a_sentence_not_a_traceback(complete: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(complete, broken)
    for name, content in {
        "evaluation/summary.json": '{"rows": 3, "metrics": []}',
        "training/metrics.jsonl": "not json\n",
        "quality/calibration.json": "[]",
        "teacher/ledger.sqlite": "no ledger",
        "recipe.yaml": "a: [",
    }.items():
        write_text(broken / name, content)
    for leftover in ("-wal", "-shm"):
        (broken / f"teacher/ledger.sqlite{leftover}").unlink(missing_ok=True)
    run(broken)
    text = read(broken).text
    for name in (
        "evaluation/summary.json",
        "training/metrics.jsonl",
        "quality/calibration.json",
        "teacher/ledger.sqlite",
        "recipe.yaml",
    ):
        assert f"can't be read: {name}" in text, name


def test_a_missing_picture_leaves_its_place_empty(complete: Path, tmp_path: Path) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(complete, hurt)
    shutil.rmtree(hurt / "data" / "coco")
    shutil.rmtree(hurt / "evaluation" / "pictures")
    run(hurt)
    text = read(hurt).text
    assert "no picture" in text
    assert "not drawn for this pair" in text


def test_ninety_noisy_pictures_of_512_pixels_stay_within_the_budget(tmp_path: Path) -> None:
    paths = []
    for k in range(6):
        path = tmp_path / f"{k}.png"
        write_png(path, numpy_rng("noise", k).integers(0, 256, (512, 512, 3), dtype=np.uint8))
        paths.append(path)
    budget = 1_700_000 * len(paths) // 90
    thumbs = Thumbnails.of([*paths, tmp_path / "absent.png"], budget)
    assert set(thumbs.uris) == set(paths)
    assert sum(len(uri) for uri in thumbs.uris.values()) <= 1.34 * budget + 30 * len(paths)


def test_a_complete_page_is_far_below_three_megabytes(complete: Path) -> None:
    assert (complete / "report.html").stat().st_size < 3_000_000


def test_the_template_and_style_sheet_are_shipped_with_the_package() -> None:
    import tomllib

    patterns = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"][
        "bottega"
    ]
    assert {"**/*.html", "**/*.css"} <= set(patterns)


def test_the_command_prints_the_page_and_refuses_a_missing_directory_with_code_2(
    complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(complete)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert main(["report", str(complete / "nowhere")]) == 2
    assert "no run directory" in capsys.readouterr().err


def test_every_check_has_words_for_the_page() -> None:
    assert {*CHECK_NAMES, "style", "estimated_distance"} == set(_CAUSES)


# --- what a paper needs -----------------------------------------------------------------------------------------------


def test_each_difference_says_in_words_what_can_be_said(complete: Path) -> None:
    """Not in colour alone: better, worse, or below which size nothing can be seen."""
    text, summary = read(complete).text, load(complete / "evaluation/summary.json")
    said = set()
    for row, gaps in summary["differences"].items():
        for metric, gap in gaps.items():
            better = summary["metrics"][metric]["better"]
            wanted = said_of(gap, better)
            if better == "neither" or wanted is None:
                continue
            assert wanted in text, (row, metric)
            said.add(wanted.split()[0] if wanted[0] == "i" else wanted.split()[-1])
    assert said == {"inconclusive", "better", "worse"}, "a fixture that shows all three"


def said_of(gap: dict[str, Any], better: str) -> str | None:
    """What the page must say of a difference; None where it has no interval."""
    corrected = gap.get("corrected")
    low, high = (corrected["low"], corrected["high"]) if corrected else (gap["low"], gap["high"])
    if low is None:
        return None
    if low <= 0 <= high:
        seen = corrected["detectable"] if corrected else max(high - gap["value"], gap["value"] - low)
        return f"inconclusive below {figure(seen)}"
    return f"{between(low, high)} {'better' if (gap['value'] > 0) == (better == 'higher') else 'worse'}"


def test_the_heat_map_has_a_number_in_every_cell_of_every_style(complete: Path) -> None:
    summary = load(complete / "evaluation/summary.json")
    html = (complete / "report.html").read_text(encoding="utf-8")
    cells = re.findall(r'<td style="background: (#[0-9a-f]{6}); color: (#[0-9a-f]{6})">([^<]+)</td>', html)
    shown = {metric for means in summary["per_label"].values() for metric in means}
    assert len(cells) == len(summary["per_label"]) * len(shown)
    numbers = [number for *_, number in cells]
    for means in summary["per_label"].values():
        assert all(figure(value) in numbers for value in means.values())
    assert all(contrast(ground, ink) >= 4.5 for ground, ink, _ in cells)


def test_survival_is_told_by_style_and_by_number_of_the_try(complete: Path) -> None:
    import sqlite3

    query = "SELECT style, COUNT(*), SUM(grade <> 'C') FROM best WHERE status <> 'broken' GROUP BY style"
    tries = "SELECT try_index, COUNT(*), SUM(grade <> 'C') FROM tries WHERE current AND status <> 'broken' GROUP BY 1"
    with sqlite3.connect(complete / "teacher/ledger.sqlite") as db:
        by_style = db.execute(query).fetchall()
        by_try = db.execute(tries).fetchall()
    db.close()
    text = read(complete).text
    assert len(by_style) > 2 and len(by_try) == 3
    for style, begun, survived in by_style:
        assert f"{style} {survived} of {begun}" in text
    for number, (_, begun, survived) in zip(("1st", "2nd", "3rd"), by_try, strict=True):
        assert f"{number} try {survived} of {begun}" in text


def test_the_methods_say_what_was_recorded_and_nothing_else(complete: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(complete, told)
    before = methods_of(told)
    assert "strength" not in before and "learning rate" not in before, "no stage has recorded any setting"
    settings = {"teacher.strength": 0.37, "teacher.name": "stabilised", "student.loop.learning_rate": 0.00123}
    write_json(told / "teacher/settings.json", settings)
    write_json(told / "training/settings.json", settings)
    stage = load(told / "teacher/stage.json")
    write_json(told / "teacher/stage.json", {**stage, "summary": {**stage["summary"], "targets": 48, "tries": 61}})
    stage = load(told / "training/stage.json")
    write_json(told / "training/stage.json", {**stage, "summary": {"steps": 600, "parameters": 1066597}})
    after = methods_of(told)
    assert "strength 0.37" in after and "peak learning rate 0.00123" in after and "600 steps of AdamW" in after
    assert "1,066,597 parameters" in after and "61 tries for 48 targets" in after
    assert "sampler" not in after, "it was not recorded"
    summary = load(complete / "evaluation/summary.json")
    assert f"{summary['pairs']} held-out pairs, {summary['contents']} contents" in after
    measured = {name for row in summary["rows"].values() for name, cell in row["metrics"].items() if "value" in cell}
    assert 0 < len(measured) < len(summary["metrics"])
    for name, metric in summary["metrics"].items():
        assert (metric["meaning"] in after) == (name in measured), name
    assert f"95 % intervals ({summary['interval']['method']}, at least 200 draws with seed 0)" in after
    assert "1 pair was left out" in after


def methods_of(directory: Path) -> str:
    run(directory)
    text = read(directory).text
    return text[text.index("Methods, for a paper") : text.index("How to make it again")]


def test_an_oracles_run_is_never_described_with_the_teachers_protocol(complete: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(complete, told)
    settings = {
        "teacher.strength": 0.37,
        "teacher.source": "oracle",
        "models.sdxl": "ab" * 32,
        "models.clip": "cd" * 32,
    }
    write_json(told / "teacher/settings.json", settings)
    stage = load(told / "teacher/stage.json")
    summary = {"targets": 48, "tries": 61, "source": "oracle"}
    write_json(told / "teacher/stage.json", {**stage, "summary": summary})
    text = methods_of(told)
    assert "an oracle gave drawn truths as targets" in text and "0.37" not in text
    assert "clip cdcd" in text and "sdxl" not in text, "weights that an oracle does not load"


def test_the_comparison_of_checkpoints_is_on_the_page_with_every_number(complete: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(complete, told)
    record = compared(tmp_path)
    write_json(told / "evaluation/checkpoints.json", record)
    run(told)
    reader = read(told)
    for sentence in record["sentences"]:
        assert sentence in reader.text
    for row in record["rows"]:
        cell = row["metrics"]["palette"]
        assert cell["low"] is not None
        assert f"{figure(cell['value'])} {between(cell['low'], cell['high'])}" in reader.text
        assert row["step"] == 0 or f"step {row['step']}" in reader.text
        for gap in row["behind"].values():
            assert between(gap["low"], gap["high"]) in reader.text
    assert reader.open == [] and len(reader.ids) == len(set(reader.ids))
    assert "Checkpoints after 10, 20 and 30 steps were compared on 36 pairs" in methods_of(told)
    assert (told / "tables/checkpoints.csv").read_text(encoding="utf-8").count("the best minus it") == 2


def compared(folder: Path) -> CheckpointsRecord:
    """Three checkpoints that the real comparison made of drawn scores."""
    adapters = [Compared(step, folder / f"{step}.safetensors", 1 / step) for step in (10, 20, 30)]
    pairs: list[Pair] = []
    for c in range(6):
        for s in range(6):
            pairs.append(Pair(f"c{c}_s{s}", f"c{c}", "c.png", f"s{s}", "s.png", "a dot", split="val"))
    rng = numpy_rng("compared")
    rows = {}
    for level, name in enumerate(("base", *(adapter.row for adapter in adapters))):
        rows[name] = {(p.content_id, p.style_id): 20 - level + float(rng.standard_normal()) for p in pairs}
    for adapter in adapters:
        adapter.path.write_bytes(b"weights")
    return compare({"palette": rows}, adapters, Grid.of(pairs), 0.95)


def test_checkpoints_that_could_not_be_compared_are_listed_as_not_measured(complete: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(complete, told)
    summary = load(told / "evaluation/summary.json")
    write_json(told / "evaluation/summary.json", {**summary, "checkpoints": "unavailable: one adapter alone"})
    run(told)
    assert "checkpoints: one adapter alone" in read(told).text
