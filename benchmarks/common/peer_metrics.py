"""Runs published measuring code in a process of its own and prints what it found as one line of JSON.

python peer_metrics.py PEERS STYLEID WORK TASK

PEERS is a folder with the packages lpips and pytorch-fid; STYLEID a checkout of jiwoogit/StyleID; WORK what the
benchmark prepared: `weights/`, and the pictures that each task names below; TASK one of `TASKS`. bottega is not
imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.peer_torchvision import ToTensor, install

Found = dict[str, float | list[float]]


def _pairs(work: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`pairs/first` and `pairs/second` by name, in 0…1, [1, 3, H, W]."""
    to_tensor = ToTensor()
    for file in sorted((work / "pairs" / "first").iterdir()):
        other = work / "pairs" / "second" / file.name
        yield to_tensor(Image.open(file).convert("RGB"))[None], to_tensor(Image.open(other).convert("RGB"))[None]


def lpips(work: Path) -> Found:
    """The package's own network, with the linear weights of the benchmark, on each pair; and the same in grey."""
    import lpips as package
    from safetensors.torch import load_file

    network = package.LPIPS(net="alex", verbose=False)
    network.load_state_dict(load_file(work / "weights" / "lpips_linear.safetensors"), strict=False)
    found: dict[str, list[float]] = {"lpips": []}
    with torch.no_grad():
        for one, two in _pairs(work):
            found["lpips"].append(network(2 * one - 1, 2 * two - 1).item())
    return {**found}


def cfsd(work: Path) -> Found:
    """StyleID's PatchSimi on each pair, the first as the drawn picture."""
    import image_metrics

    network = image_metrics.PatchSimi(device=torch.device("cpu"))
    with torch.no_grad():
        return {"cfsd": [network(one, two).item() for one, two in _pairs(work)]}


def export_linear(work: Path) -> Found:
    """The linear weights of the package's wheel as safetensors, for bottega to read."""
    import lpips as package
    from safetensors.torch import save_file

    file = Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth"
    state = torch.load(file, map_location="cpu", weights_only=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, work / "weights" / "lpips_linear.safetensors"
    )
    return {"numbers": float(sum(tensor.numel() for tensor in state.values()))}


def fid(work: Path) -> Found:
    """pytorch-fid between `fid/first` and `fid/second`, and its features of the first folder."""
    from pytorch_fid import fid_score, inception
    from safetensors.torch import load_file

    state = load_file(work / "weights" / "fid_inception.safetensors")
    inception.load_state_dict_from_url = lambda *_, **__: state
    fid_score.InceptionV3 = inception.InceptionV3
    folders = [str(work / "fid" / "first"), str(work / "fid" / "second")]
    value = fid_score.calculate_fid_given_paths(folders, 1, "cpu", 2048, num_workers=0)
    model = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    files = sorted(Path(folders[0]).iterdir())
    features = fid_score.get_activations(files, model, 1, 2048, "cpu", num_workers=0)
    return {"fid": float(value), "features": features.ravel().tolist()}


def styleid(work: Path) -> Found:
    """StyleID's eval_artfid.py on `protocol/cnt_eval`, `sty_eval`, `output`, its FID∞ and its CFSD unrounded."""
    import eval_artfid

    folders = {name: str(work / "protocol" / name) for name in ("output", "sty_eval", "cnt_eval")}
    # num_workers is passed on as num_points, each of which takes a root of a 2048 × 2048 matrix; no process is needed.
    points = int(os.environ.get("POINTS", "1"))
    loader = torch.utils.data.DataLoader
    torch.utils.data.DataLoader = lambda *given, **named: loader(*given, **{**named, "num_workers": 0})
    np.random.seed(0)  # its shuffle has no seed of its own
    art_fid, value, distance, grey = eval_artfid.compute_art_fid(
        folders["output"], folders["sty_eval"], folders["cnt_eval"], 1, "cpu", num_workers=points
    )
    structure = eval_artfid.compute_patch_simi(folders["output"], folders["cnt_eval"], 1, "cpu").item()
    return {"art_fid": art_fid, "fid": value, "lpips": distance, "lpips_grey": grey, "cfsd": structure}


def histogan(work: Path) -> Found:
    """StyleID's eval_histogan.py, a script without functions: its list of losses is read after it ran."""
    import runpy

    folders = {name: str(work / "protocol" / name) for name in ("output", "sty_eval")}
    sys.argv = ["eval_histogan.py", "--tar", folders["output"], "--sty", folders["sty_eval"]]
    left = runpy.run_path(str(Path(sys.path[0]) / "eval_histogan.py"))
    return {"histogram": [float(one) for one in left["hist_list"]]}


TASKS = {
    "lpips": lpips,
    "cfsd": cfsd,
    "export_linear": export_linear,
    "fid": fid,
    "styleid": styleid,
    "histogan": histogan,
}


def main() -> None:
    """As the module's docstring says."""
    peers, checkout, work, task = sys.argv[1:]
    evaluation = Path(checkout) / "evaluation"
    work_folder = Path(work)
    weights = work_folder / "weights"
    vgg19 = weights / "vgg19.safetensors"
    os.environ["TMPDIR"] = work  # where StyleID looks for art_fid/art_inception.pth before it downloads
    # bottega's `common` is imported already: from here on names are the peers'.
    sys.path[:0] = [str(evaluation), peers]
    install(weights / "alexnet.safetensors", vgg19 if vgg19.is_file() else None, evaluation)
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):  # the peers print
        found = TASKS[task](work_folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
