"""An adapter, an image encoder and a U-Net that don't belong together are refused from their headers alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bottega.models import ip_adapter
from bottega.runtime.errors import MissingError, RequestError

Makers = dict[str, Callable[..., Path]]
NAME = "ip-adapter_sdxl.safetensors"


def _check(root: Path, published: Path) -> ip_adapter.IPAdapter:
    file = ip_adapter.adapter_file(root)
    return ip_adapter.check(file, ip_adapter.encoder_folder(file), published / "sdxl" / "unet")


def test_the_published_layout_fits(published: Path) -> None:
    found = _check(published / "ip_adapter", published)
    assert (found.layout, found.width, found.cross_attention_dim, found.tokens) == ("plain", 24, 64, 4)
    assert len(found.layers) == 11  # 1 + 2 down, 2 × 2 + 2 × 1 up, 2 in the middle


def test_a_plain_adapter_of_another_projection_width_is_refused(published: Path, tmp_path: Path, make: Makers) -> None:
    make["image_encoder"](tmp_path / "image_encoder", projection=16)
    shutil.copy(published / "ip_adapter" / NAME, tmp_path)
    with pytest.raises(RequestError, match=r"plain layout\) needs an image encoder of projection_dim 24, .* has 16"):
        _check(tmp_path, published)


def test_widths_that_agree_by_chance_do_not_pass_across_layouts(published: Path, tmp_path: Path, make: Makers) -> None:
    """As 1280 is both ViT-bigG's projection and ViT-H's hidden size: a plus adapter for ViT-H, beside ViT-bigG."""
    make["image_encoder"](tmp_path / "image_encoder", hidden=48, projection=32)
    make["ip_adapter"](tmp_path / "ip-adapter-plus_sdxl_vit-h.safetensors", published / "sdxl", width=32, layout="plus")
    with pytest.raises(RequestError, match=r"plus layout\) needs an image encoder of hidden_size 32, .* has 48"):
        _check(tmp_path, published)
    make["image_encoder"](tmp_path / "fits" / "image_encoder", hidden=32, projection=16)
    make["ip_adapter"](
        tmp_path / "fits" / "ip-adapter-plus_sdxl_vit-h.safetensors", published / "sdxl", width=32, layout="plus"
    )
    assert _check(tmp_path / "fits", published).tokens == 16


def test_an_encoder_whose_configuration_contradicts_its_weights_is_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "ip_adapter", tmp_path / "a")
    config = tmp_path / "a" / "image_encoder" / "config.json"
    config.write_text(config.read_text().replace('"projection_dim": 24', '"projection_dim": 25'))
    with pytest.raises(
        RequestError, match=r"config.json says projection_dim 25 and hidden_size 32, its weights \[24, 32\]"
    ):
        _check(tmp_path / "a", published)


def test_an_adapter_for_another_unet_is_refused(published: Path, tmp_path: Path) -> None:
    tensors = load_file(published / "ip_adapter" / NAME)
    shutil.copytree(published / "ip_adapter" / "image_encoder", tmp_path / "image_encoder")
    fewer = {n: t for n, t in tensors.items() if not n.startswith("ip_adapter.15.")}
    save_file(fewer, tmp_path / NAME)
    with pytest.raises(RequestError, match="10 layers, the U-Net 11 cross-attention layers"):
        _check(tmp_path, published)
    save_file(tensors | {"ip_adapter.3.to_k_ip.weight": np.zeros((7, 64), np.float32)}, tmp_path / NAME)
    with pytest.raises(RequestError, match=r"layer 1: \[7, 64\] against \[96, 64\]"):
        _check(tmp_path, published)
    narrow = {n: t[:, :32] if ".to_" in n else t[:128] if "proj.weight" in n else t for n, t in tensors.items()}
    save_file({n: np.ascontiguousarray(t) for n, t in narrow.items()}, tmp_path / NAME)
    with pytest.raises(RequestError, match="cross_attention_dim 32"):
        _check(tmp_path, published)


def test_the_vit_h_encoder_of_the_published_repository_is_found_one_folder_up(
    published: Path, tmp_path: Path, make: Makers
) -> None:
    """h94/IP-Adapter: sdxl_models/image_encoder is ViT-bigG, models/image_encoder ViT-H."""
    bigg = make["image_encoder"](tmp_path / "sdxl_models" / "image_encoder")
    vith = make["image_encoder"](tmp_path / "models" / "image_encoder", hidden=24, projection=16)
    plain = make["ip_adapter"](tmp_path / "sdxl_models" / NAME, published / "sdxl")
    plus = make["ip_adapter"](
        tmp_path / "sdxl_models" / "ip-adapter-plus_sdxl_vit-h.safetensors", published / "sdxl", width=24, layout="plus"
    )
    assert ip_adapter.encoder_folder(plain) == bigg
    assert ip_adapter.encoder_folder(plus) == vith
    assert ip_adapter.adapter_file(tmp_path / "sdxl_models") == plain


def test_a_folder_of_several_unknown_adapters_asks_which(tmp_path: Path) -> None:
    for name in ("ip-adapter-a.safetensors", "ip-adapter-b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(RequestError, match="holds 2 IP-Adapters; name one of ip-adapter-a"):
        ip_adapter.adapter_file(tmp_path)


def test_pickled_absent_and_foreign_adapters_are_told_apart(published: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no IP-Adapter"):
        ip_adapter.adapter_file(tmp_path)
    (tmp_path / "ip-adapter_sdxl.bin").touch()
    with pytest.raises(RequestError, match="read from safetensors only"):
        ip_adapter.adapter_file(tmp_path)
    with pytest.raises(RequestError, match="read from safetensors only"):
        ip_adapter.adapter_file(tmp_path / "ip-adapter_sdxl.bin")
    with pytest.raises(RequestError, match="not an IP-Adapter"):
        ip_adapter.describe(published / "ip_adapter" / "image_encoder" / "model.safetensors")
    face = {
        "image_proj.proj.0.weight": np.zeros((8, 4)),
        "image_proj.norm.weight": np.zeros(4),
        "ip_adapter.1.to_k_ip.weight": np.zeros((4, 4)),
    }
    save_file(face, tmp_path / "ip-adapter-faceid.safetensors")
    with pytest.raises(RequestError, match="FaceID adapters are not supported"):
        ip_adapter.describe(tmp_path / "ip-adapter-faceid.safetensors")
