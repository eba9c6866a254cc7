"""Networks that are published as a bare file of tensors, without a configuration: what measures needs no folder.

Their files are pickles, which are not opened here. People convert one to safetensors (`CONVERSION`) and keep the
original beside it: then it is shown, without unpickling, that the tensors are the published ones. A pickle of torch
keeps each tensor's bytes as they are, so every tensor of the converted file must stand in the original byte for byte,
and the original's SHA-256 must be the known one.
"""

from __future__ import annotations

import mmap
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import TypedDict

from bottega.models.weights import PICKLED, read_header
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import sha256_file
from bottega.runtime.trust import hash_tensors

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]
CONVERSION = "docs/published-numbers.md, “The weights”, has the lines that convert one"


class PublishedFile(NamedTuple):
    """A file of weights as its authors publish it, with its SHA-256 and where that is stated."""

    name: str
    sha256: str
    source: str


PUBLISHED: Mapping[str, PublishedFile] = {
    # The first 8 digits are in torchvision's own file names; the rest agrees in many public manifests.
    "alexnet": PublishedFile(
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    "vgg19": PublishedFile(
        "vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        "download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
    "lpips linear layers": PublishedFile(
        "alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1/alex.pth",
    ),
    "art inception": PublishedFile(
        "art_inception.pth",
        "5bc1c20380401911d99d528b7b6e4430044b56edd5f7f26467222f3fb7c54e7e",
        "huggingface.co/matthias-wright/art_inception",
    ),
}
"""By network. A hash stands here only if it can be read in public."""


class WeightsRecord(TypedDict):
    """Which weights a network has, as JSON.

    Args:
        network: its name in `PUBLISHED`, or another.
        file: the file's name.
        sha256: of the file that was read.
        tensors: hash of the tensors that are used, whatever file they came in.
        published: SHA-256 of the published file that holds these tensors; empty where that is not shown.
        difference: why it is not shown; empty where it is.
    """

    network: str
    file: str
    sha256: str
    tensors: str
    published: str
    difference: str


@dataclass(frozen=True)
class PlainWeights:
    """The tensors of a network by name, float32 on the CPU, and which they are."""

    tensors: Mapping[str, torch.Tensor]
    record: WeightsRecord


def read_plain_weights(file: Path, network: str, shapes: Shapes) -> PlainWeights:
    """The tensors that a network needs, from a safetensors file; others in it are left there.

    Args:
        file: where they are.
        network: what they are of; one of `PUBLISHED` is held against its published file.
        shapes: every tensor that is needed, by name.

    Raises:
        MissingError: there is no such file; the message names the published one and its SHA-256.
        RequestError: it is a pickle, or holds other tensors than these.
        StorageError: it is incomplete.
    """
    _require_safetensors(file, network)
    _require_tensors(file, network, shapes)
    import torch
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(file), framework="pt") as opened:
        for name in shapes:
            tensors[name] = opened.get_tensor(name).to(torch.float32).contiguous()
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise RequestError(f"{file}: {name} holds NaN or infinity; convert {wanted(network)} again")
    published, difference = _hold_against_original(file, network, tensors)
    return PlainWeights(
        tensors,
        {
            "network": network,
            "file": file.name,
            "sha256": sha256_file(file),
            "tensors": hash_tensors(tensors),
            "published": published,
            "difference": difference,
        },
    )


def wanted(network: str) -> str:
    """The file that a network is published as, for messages: name, SHA-256 and where it comes from."""
    known = PUBLISHED.get(network)
    if known is None:
        return f"the weights of {network}"
    return f"{known.name} (sha256 {known.sha256}, from {known.source})"


def _require_safetensors(file: Path, network: str) -> None:
    if file.suffix.lower() in PICKLED:
        twin = file.with_suffix(".safetensors")
        cure = f"name {shlex.quote(str(twin))}, which lies beside it" if twin.is_file() else CONVERSION
        raise RequestError(
            f"{file}: a pickled file, which could run code, and only safetensors are read as the weights of {network}; "
            f"{cure}"
        )
    if not file.is_file():
        raise MissingError(
            f"{file}: no such file; the weights of {network} are published as {wanted(network)}; {CONVERSION}"
        )


def _require_tensors(file: Path, network: str, shapes: Shapes) -> None:
    found = read_header(file).tensors
    for name, shape in shapes.items():
        if name not in found:
            raise RequestError(
                f"{file}: {network} needs the tensor {name} {list(shape)} and the file has none of that name; convert "
                f"{wanted(network)}"
            )
        if found[name].shape != shape:
            raise RequestError(
                f"{file}: {network} needs {name} of shape {list(shape)}, received {list(found[name].shape)}; convert "
                f"{wanted(network)}"
            )


def _hold_against_original(file: Path, network: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """The SHA-256 of the published file beside `file` that holds these tensors, or "" and why that is not shown."""
    known = PUBLISHED.get(network)
    if known is None:
        return "", f"no SHA-256 of {network} is published that could be checked"
    original = file.with_name(known.name)
    if not original.is_file():
        return "", f"{known.name} is not beside {file.name}, so the tensors can't be held against it"
    found = sha256_file(original)
    if found != known.sha256:
        return "", f"{known.name} has the sha256 {found}, the published one {known.sha256}"
    other = _absent_in(original, tensors)
    if other:
        return "", f"{file.name}: the tensor {other} does not stand in {known.name} byte for byte"
    return found, ""


def _absent_in(original: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """The first tensor whose bytes are not in a file; "" where all are."""
    with original.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        after = 0  # tensors come in the order of the network: the search goes on where the last one was found
        for name, tensor in tensors.items():
            wanted_bytes = tensor.numpy().tobytes()
            place = content.find(wanted_bytes, after)
            if place < 0:
                place = content.find(wanted_bytes)
            if place < 0:
                return name
            after = place + len(wanted_bytes)
    return ""
