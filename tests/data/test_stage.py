"""The stage as a whole: from raw data sets to pair lists, killed and resumed, and through the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bottega.cli.main import main
from bottega.data import pairs, stage
from bottega.data.config import CocoConfig, DataConfig, PairsConfig, WikiArtConfig
from bottega.data.records import read_pairs
from bottega.runtime.errors import MissingError

CONFIG = DataConfig(fill50k=None, wikiart=WikiArtConfig(offline=True))


@pytest.fixture
def root(tmp_path, photo, encoded, write_parquet, write_coco):
    write_coco(tmp_path / "raw" / "coco", "train2017", range(30))
    write_coco(tmp_path / "raw" / "coco", "val2017", range(100, 110))
    cells = [{"bytes": encoded(photo(200 + k)), "path": f"p_{k}.png"} for k in range(60)]
    write_parquet(
        tmp_path / "raw" / "wikiart" / "data" / "train-00000-of-00001.parquet",
        cells,
        [k % 6 for k in range(60)],
        [k % 3 for k in range(60)],
    )
    return tmp_path


def outputs(root: Path) -> dict[str, bytes]:
    files = (p for name in ("coco", "wikiart", "pairs") for p in (root / name).rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files if "index.sqlite" not in p.name}


def all_of_it(root: Path) -> None:
    stage.run(CONFIG, root)
    pairs.run(PairsConfig(train=100, val=6, crossed=(3, 4)), root / "pairs", data_root=root)


def test_the_summary_can_be_written_as_json(root):
    summary = stage.run(CONFIG, root)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["contents"]["pictures"] == 40
    assert summary["styles"]["pictures"] == 60


def test_no_output_holds_an_absolute_path(root):
    all_of_it(root)
    for name, data in outputs(root).items():
        if not name.endswith((".png", ".jpg")):
            assert str(root).encode() not in data, name


def test_killed_at_random_moments_it_ends_as_an_uninterrupted_run(root):
    all_of_it(root)
    expected = outputs(root)
    for name in ("coco", "wikiart", "pairs"):
        subprocess.run(["rm", "-r", str(root / name)], check=True)
    code = (
        "import sys; from pathlib import Path; from bottega.data import ingest, stage, pairs; "
        "from bottega.data.config import *; ingest.COMMIT_EVERY = 4; root = Path(sys.argv[1]); "
        "print('go', flush=True); "
        "stage.run(DataConfig(fill50k=None, wikiart=WikiArtConfig(offline=True)), root); "
        "pairs.run(PairsConfig(train=100, val=6, crossed=(3, 4)), root / 'pairs', data_root=root)"
    )
    moments = random.Random(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(moments.uniform(0.05, 0.5))
            os.kill(child.pid, signal.SIGKILL)
    all_of_it(root)
    assert outputs(root) == expected


def test_contents_may_lie_outside_of_the_data_root(root):
    """The tree of the full recipe: dataset_cocostuff beside data."""
    (root / "raw" / "coco").rename(root / "dataset_cocostuff")
    (root / "raw").rename(root / "data")
    (root / "data" / "wikiart").rename(root / "data" / "raw")
    (root / "data" / "wikiart").mkdir()
    (root / "data" / "raw").rename(root / "data" / "wikiart" / "raw")
    config = DataConfig(
        fill50k=None,
        coco=CocoConfig(source="../dataset_cocostuff"),
        wikiart=WikiArtConfig(source="wikiart/raw", offline=True),
    )
    stage.run(config, root / "data")
    pairs.run(PairsConfig(train=9, val=1, crossed=(1, 1)), root / "data" / "pairs", data_root=root / "data")
    for row in read_pairs(root / "data" / "pairs" / "train.jsonl"):
        assert row.content_path.startswith("../dataset_cocostuff/images/train2017/")
        assert (root / "data" / row.content_path).is_file()
        assert (root / "data" / row.style_path).is_file()


def test_an_absent_data_set_says_how_to_get_it(tmp_path):
    with pytest.raises(MissingError, match=r"unpack COCO's train2017\.zip and annotations_trainval2017\.zip"):
        stage.run(CONFIG, tmp_path)


def test_sigterm_saves_what_was_looked_at_and_the_next_run_goes_on(root, capsys):
    code = (
        "import sys, os, signal; from pathlib import Path; from bottega.cli.main import main; "
        "from bottega.data import placement; inner = placement.Placement._place; done = []\n"
        "def place(self, item, look, identity):\n"
        "    done.append(identity)\n"
        "    if len(done) == 20: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return inner(self, item, look, identity)\n"
        "placement.Placement._place = place; sys.exit(main(sys.argv[1:]))"
    )
    words = ["data", "wikiart", "--output-dir", str(root / "wikiart"), "--cache-dir", str(root / "raw" / "wikiart")]
    stopped = subprocess.run([sys.executable, "-c", code, *words, "--offline"], capture_output=True, text=True)
    assert stopped.returncode == 143
    assert "run the same command again to continue" in stopped.stderr
    assert len(list((root / "wikiart" / "images").iterdir())) == 20
    assert main([*words, "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 60


def test_the_commands_prepare_and_pair(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["data", "coco", "--source", "raw/coco", "--output_dir", "data/coco"]) == 0
    assert main(["data", "wikiart", "--output-dir", "data/wikiart", "--cache-dir", "raw/wikiart", "--offline"]) == 0
    assert main(["data", "pairs", "--num-pairs", "100", "--seeds", "0,1,2"]) == 0
    told = capsys.readouterr().out
    assert "100 pairs, 30 contents" in told
    long = (root / "data" / "pairs" / "pseudo_pairs_train.jsonl").read_bytes()
    script = Path(__file__).parents[2] / "scripts" / "build_pseudo_pairs.py"
    subprocess.run(
        [sys.executable, script, "--num-pairs", "20", "--output", "short.jsonl"], check=True, capture_output=True
    )
    short = (root / "short.jsonl").read_bytes()
    assert short.count(b"\n") == 20
    assert long.startswith(short)
    assert main(["data", "pairs", "--split", "test", "--crossed", "3x4", "--output", "test.jsonl"]) == 0
    assert sum(1 for _ in read_pairs(root / "test.jsonl")) == 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pairs", "--seeds", "0,x"], "--seeds wants numbers, received '0,x'"),
        (["pairs", "--split", "tset"], "split = 'tset' is not allowed"),
        (["pairs", "--num-pairs", "0"], "num_pairs = 0 is not allowed"),
        (["pairs"], "prepare the contents: bottega data coco"),
        (["wikiart", "--mode", "hardlink"], "mode = 'hardlink' is not allowed"),
        (["coco", "--source", "nowhere"], "there is no folder"),
        (["fill50k", "--source", "nowhere"], "unpack Fill50K there"),
        (["folder"], "give --contents FOLDER, --styles FOLDER or both"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_two(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error


def test_configs_are_read_without_heavy_libraries():
    heavy = "('torch', 'pyarrow', 'cv2', 'numpy', 'PIL')"
    code = f"import sys, bottega.data.config; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_told_in_one_line(root, capsys):
    (root / "closed").mkdir(mode=0o500)
    words = ["data", "wikiart", "--cache-dir", str(root / "raw" / "wikiart"), "--offline"]
    assert main([*words, "--output-dir", str(root / "closed" / "wikiart")]) == 1
    assert "permission denied" in capsys.readouterr().err
