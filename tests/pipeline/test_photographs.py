"""Real photographs as contents: the loop completes, every picture is graded, the report shows them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

import skimage.data

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "camera", "coins", "hubble_deep_field")

RECIPE = """
name: photographs
world: {contents: 12, contents_val: 2, painters: 8, paintings: 4, fill50k: 4, workers: 1}
data:
  content_folder: {source: photographs, prompt: a photograph, limits: {workers: 1}}
  wikiart: {offline: true, limits: {workers: 1}}
  fill50k: {limits: {workers: 1}}
models:
  sdxl: bottega:miniature/weights/sdxl
  ip_adapter: bottega:miniature/weights/ip_adapter
  pixart: bottega:miniature/weights/pixart
  clip: bottega:miniature/weights/clip
  style_classifier: bottega:miniature/weights/style_classifier
  structure_encoder: bottega:miniature/weights/structure_encoder
  scene_reader: bottega:miniature/weights/scene_reader
pairs: {train: 8, val: 1, crossed: [1, 2], seeds: [0]}
quality: {size: 128, sample: 8}
teacher: {source: sdxl, size: 128, seeds: [0], steps: 10, batch_size: 4, max_retries: 1}
features: {batch_size: 4, fill50k: 4}
student:
  batch_size: 4
  accumulation: 1
  loop: {steps: 4, warmup_steps: 1, checkpoint_every: 2, log_every: 2, validate_every: 2}
  sampling: {steps: 2}
  validation: {pictures: 1, timesteps: 2}
evaluation: {rows: [student, base, content], batch_size: 4, draws: 200, examples: 1}
"""


def test_the_loop_completes_on_photographs_and_shows_them(
    bottega: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "photographs" / "data" / "photographs"
    folder.mkdir(parents=True)
    for name in PHOTOGRAPHS:
        for file in Path(skimage.data.__file__).parent.glob(f"{name}.*"):
            shutil.copyfile(file, folder / file.name)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = bottega("run", "recipe.yaml", "--json", timeout=900)
    assert done.returncode == 0, done.stderr

    run = tmp_path / "runs" / "photographs"
    summary = json.loads(done.stdout)
    with closing(sqlite3.connect(run / "teacher" / "ledger.sqlite")) as ledger:
        grades = [grade for (grade,) in ledger.execute("SELECT grade FROM best")]
    assert len(grades) == 9 and set(grades) <= set("ABC"), grades
    assert "evaluation" in summary["stages"]
    report = (run / "report.html").read_text()
    assert report.count("data:image/") > 9
