"""Using models asks nobody: not with the network allowed, and certainly not after `go_offline`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

WATCH = """
import json, sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}")
        raise OSError("this process must not use the network")
sys.addaudithook(hook)
"""
PAINT = """
import numpy as np, torch
from pathlib import Path
from PIL import Image
from bottega.models.encoders import ClipEncoder, StructureEncoder
from bottega.models.loading import load_pixart_parts, load_teacher_pipeline, resolve
CPU = {"dtype": "float32", "device": "cpu"}
def place(name):
    return resolve(name, cache=cache)
pipeline = load_teacher_pipeline(place("org/sdxl"), place("org/ip_adapter"), **CPU)
rng = np.random.default_rng(0)
content, style = (Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2))
painted = pipeline(prompt="a red circle", image=content, ip_adapter_image=style, strength=0.4, num_inference_steps=5,
                   generator=torch.Generator().manual_seed(0), output_type="np").images
assert painted.shape == (1, 64, 64, 3) and np.isfinite(painted).all()
load_pixart_parts(place("org/pixart"), ("transformer", "text_encoder", "vae", "scheduler"), **CPU)
ClipEncoder(place("org/clip"), device="cpu").text(["a red circle"])
StructureEncoder(place("org/structure_encoder"), device="cpu").keys(np.asarray(content)[None])
"""
FREE = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}


def _run(code: str) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", code + "\nprint('ASKED' + json.dumps(asked))"]
    done = subprocess.run(command, capture_output=True, text=True, env=FREE, check=False)
    assert done.returncode == 0, done.stderr
    asked: list[str] = json.loads(done.stdout.split("ASKED")[1])
    return asked


def test_loading_a_teacher_and_painting_a_picture_opens_no_socket(
    published: Path, tmp_path: Path, lay_out: Callable[..., Path]
) -> None:
    """With the network allowed and names of the Hub, whose cache holds the models."""
    for name in ("sdxl", "ip_adapter", "pixart", "clip", "structure_encoder"):
        lay_out(tmp_path, f"org/{name}", published / name)
    assert _run(f"{WATCH}\ncache = {str(tmp_path)!r}\n{PAINT}") == []


def test_the_watch_sees_a_question_to_the_hub() -> None:
    ask = """
from huggingface_hub import HfApi
try:
    HfApi("http://localhost:9").model_info("org/name", timeout=1)
except Exception:
    pass
"""
    assert len(_run(WATCH + ask)) > 0
    for before, after in (("", ask), ("import huggingface_hub.constants, transformers.utils.hub", ask)):
        forbid = "\nfrom bottega.models.libraries import go_offline\ngo_offline()\n"
        assert _run(f"{WATCH}{before}{forbid}{after}") == []


def test_offline_holds_for_data_sets_and_for_processes_that_are_started() -> None:
    code = """
import subprocess
from bottega.data.hub import is_offline
from bottega.models.libraries import go_offline
assert not is_offline()
go_offline()
assert is_offline()
child = "import huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE, c.HF_HUB_DISABLE_TELEMETRY)"
told = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
assert told.split() == ["True", "True"], told
"""
    assert _run(WATCH + code) == []
