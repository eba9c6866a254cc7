"""What a checkpoint is, told from headers: families, variants, prediction types, what lacks and what is foreign."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import bottega
from bottega.models.identify import CheckpointIdentity, Statement, identify
from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError

from . import originals

WEIGHTS = Path(bottega.__file__).parent / "miniature" / "weights"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals.write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def state(sdxl: Path) -> dict[str, Any]:
    return originals.original(sdxl)


def write(path: Path, state: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    from safetensors.torch import save_file as save_tensors

    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({name: tensor.clone() for name, tensor in state.items()}, path, metadata=metadata)
    return path


def headers_only(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """A file of the right size whose tensors are a hole on the disk: full-size shapes without gigabytes."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


def test_the_hand_written_names_are_those_that_diffusers_reads(
    tmp_path: Path, sdxl: Path, state: dict[str, Any]
) -> None:
    """The builder of these tests is itself checked: diffusers loads the file to the same tensors, bit for bit."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    file = write(tmp_path / "x.safetensors", state)
    folder = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    single = StableDiffusionXLPipeline.from_single_file(
        str(file), config=str(sdxl), local_files_only=True, add_watermarker=False
    )
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        expected, found = getattr(folder, name).state_dict(), getattr(single, name).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name


def test_a_single_file_and_the_folder_that_it_was_made_of_are_the_same_model(
    tmp_path: Path, sdxl: Path, state: dict[str, Any]
) -> None:
    folder = identify(sdxl)
    file = identify(write(tmp_path / "animeMix_v3.safetensors", state))
    assert (folder.family, folder.layout) == ("sdxl", "diffusers")
    assert (file.family, file.layout) == ("sdxl", "original")
    for name in ("width", "depth", "size", "pixels_per_cell", "in_channels"):
        assert getattr(folder, name) == getattr(file, name)
    assert (file.width, file.depth, file.size, file.pixels_per_cell) == (32, 11, "miniature", 8)
    numbers = {part.name: part.parameters for part in folder.parts}
    extra = {"text_encoder_2": 1}  # OpenCLIP's logit_scale
    assert {part.name: part.parameters - extra.get(part.name, 0) for part in file.parts} == numbers
    assert all(part.gaps == () for part in (*folder.parts, *file.parts))
    assert file.missing == folder.missing == ()
    assert folder.prediction == Statement("epsilon", "scheduler/scheduler_config.json")
    assert file.prediction is None
    assert file.names == (("the file's name", "animeMix_v3.safetensors"),)


def test_parameters_and_types_are_those_of_the_tensors(tmp_path: Path, state: dict[str, Any]) -> None:
    half = {name: tensor.half() if name.startswith("model.") else tensor for name, tensor in state.items()}
    found = identify(write(tmp_path / "x.safetensors", half))
    unet = next(part for part in found.parts if part.name == "unet")
    own = [tensor for name, tensor in half.items() if name.startswith("model.diffusion_model.")]
    assert unet.parameters == sum(tensor.numel() for tensor in own)
    assert unet.tensors == len(own)
    assert found.dtypes == ("F16", "F32")


MARKER = np.zeros(0, np.float32)


@pytest.mark.parametrize(
    ("markers", "metadata", "name", "expected", "weak", "zero"),
    [
        (["v_pred", "ztsnr"], {}, "x", "v_prediction", False, True),
        (["v_pred"], {}, "x", "v_prediction", False, None),
        ([], {"modelspec.prediction_type": "v"}, "x", "v_prediction", False, None),
        ([], {"modelspec.prediction_type": "epsilon"}, "x", "epsilon", False, None),
        ([], {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "x", "v_prediction", False, True),
        ([], {}, "NoobAI-XL-Vpred-v1.0", "v_prediction", True, None),
        ([], {"modelspec.title": "some v-pred mix"}, "x", "v_prediction", True, None),
        ([], {}, "noobaiXL_epsilonPred11", "epsilon", True, None),
        ([], {}, "steps_of_the_epstein", None, False, None),
    ],
)
def test_a_file_says_its_prediction_type_and_where_it_says_so(
    tmp_path: Path, state: dict[str, Any], markers: list[str], metadata: dict[str, str], name: str,
    expected: str | None, weak: bool, zero: bool | None,
) -> None:  # fmt: skip
    import torch

    marked = {**state, **{marker: torch.from_numpy(MARKER) for marker in markers}}
    found = identify(write(tmp_path / f"{name}.safetensors", marked, metadata or None))
    said = found.prediction
    assert (said.type if said else None) == expected
    assert (said.weak if said else False) == weak
    assert found.zero_terminal_snr is zero
    assert found.foreign.count == 0, "a marker is no foreign tensor"


def test_places_that_contradict_each_other_are_all_told(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    marked = {**state, "v_pred": torch.zeros(0)}
    found = identify(write(tmp_path / "x-vpred.safetensors", marked, {"modelspec.prediction_type": "epsilon"}))
    assert [(s.type, s.weak) for s in found.stated] == [
        ("v_prediction", False), ("epsilon", False), ("v_prediction", True),
    ]  # fmt: skip
    assert [s.where for s in found.contradictions] == ["the metadata `modelspec.prediction_type`"]


def _scheduler(folder: Path, **changes: Any) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "expected", "weak"),
    [
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v_prediction", False),
        ({"prediction_type": "sample"}, "sample", False),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow", False),
        ({"prediction_type": "nonsense"}, "epsilon", True),
    ],
)
def test_the_scheduler_of_a_folder_says_its_prediction_type(
    tmp_path: Path, changes: dict[str, Any], expected: str, weak: bool
) -> None:
    import shutil

    folder = shutil.copytree(WEIGHTS / "sdxl", tmp_path / "sdxl")
    _scheduler(folder, **changes)
    found = identify(folder)
    assert found.prediction is not None
    assert (found.prediction.type, found.prediction.weak) == (expected, weak)
    assert found.zero_terminal_snr is changes.get("rescale_betas_zero_snr", False)


def test_the_refiner_is_told_from_the_base(tmp_path: Path) -> None:
    folder = originals.write_sdxl(tmp_path / "refiner", refiner=True)
    file = write(tmp_path / "refiner.safetensors", originals.original(folder, "sdxl_refiner"))
    for found in (identify(folder), identify(file)):
        assert found.family == "sdxl_refiner"
        assert found.missing == ()


def test_a_file_for_inpainting_is_told_by_its_first_layer(tmp_path: Path) -> None:
    folder = originals.write_sdxl(tmp_path / "inpaint", in_channels=9)
    for found in (
        identify(folder),
        identify(write(tmp_path / "i.safetensors", originals.original(folder))),
        identify(folder / "unet"),
    ):
        assert (found.family, found.variant, found.in_channels) == ("sdxl_inpaint", "inpaint", 9)


@pytest.mark.parametrize(("second", "family"), [(False, "sd1"), (True, "sd2")])
def test_stable_diffusion_1_and_2_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool, family: str
) -> None:
    folder = originals.write_sd(tmp_path / "sd", second=second)
    file = write(tmp_path / "sd.safetensors", originals.original(folder, family))
    found = identify(file)
    assert (found.family, found.layout, found.missing) == (family, "original", ())
    assert identify(folder / "unet").family == family
    inpaint = originals.write_sd(tmp_path / "inpaint", second=second, in_channels=9)
    assert (identify(inpaint / "unet").family, identify(inpaint / "unet").variant) == (family, "inpaint")


def test_parts_that_lack_are_named(tmp_path: Path, state: dict[str, Any]) -> None:
    no_vae = {name: tensor for name, tensor in state.items() if not name.startswith("first_stage_model.")}
    assert identify(write(tmp_path / "a.safetensors", no_vae)).missing == ("vae",)
    unet = {name: tensor for name, tensor in state.items() if name.startswith("model.")}
    found = identify(write(tmp_path / "b.safetensors", unet))
    assert (found.family, found.missing) == ("sdxl", ("text_encoder", "text_encoder_2", "vae"))
    vae = {name: tensor for name, tensor in state.items() if name.startswith("first_stage_model.")}
    assert identify(write(tmp_path / "c.safetensors", vae)).family == "vae"


@pytest.mark.parametrize(
    ("gone", "part", "gap"),
    [
        ("model.diffusion_model.out.2.bias", "unet", "out.2.bias"),
        (
            "model.diffusion_model.middle_block.1.transformer_blocks.1.attn2.to_k.weight",
            "unet",
            "middle_block.1.transformer_blocks.1.attn2.to_k.weight",
        ),
        ("model.diffusion_model.input_blocks.3.", "unet", "input_blocks.3.*"),
        ("conditioner.embedders.1.model.transformer.resblocks.4.", "text_encoder_2", "transformer.resblocks.4.*"),
        ("first_stage_model.decoder.conv_in.weight", "vae", "decoder.conv_in.weight"),
    ],
)
def test_tensors_that_lack_within_a_part_are_named(
    tmp_path: Path, state: dict[str, Any], gone: str, part: str, gap: str
) -> None:
    torn = {name: tensor for name, tensor in state.items() if not name.startswith(gone)}
    assert len(torn) < len(state)
    found = identify(write(tmp_path / "x.safetensors", torn))
    assert gap in next(each.gaps for each in found.parts if each.name == part)


def test_foreign_tensors_are_counted_by_kind(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    more = {
        "model_ema.diffusion_modelout2bias": torch.zeros(4),
        "model_ema.decay": torch.zeros(()),
        "optimizer.state.0.exp_avg": torch.zeros(3),
        "what\x1b[2Jever.weight": torch.zeros(1),
        "alphas_cumprod": torch.zeros(1000),  # a buffer that every trainer saves: nothing is wrong with it
    }
    found = identify(write(tmp_path / "x.safetensors", {**state, **more}))
    assert found.foreign.kinds == {"EMA copy": 2, "optimizer state": 1, "unknown": 1}
    assert found.foreign.count == 4
    assert not any("\x1b" in name for name in found.foreign.first), "a name is shown without the codes of a terminal"


def test_pixart_in_folders_and_in_its_authors_names(tmp_path: Path) -> None:
    found = identify(WEIGHTS / "pixart")
    assert (found.family, found.layout, found.size, found.native_side) == ("pixart", "diffusers", "miniature", 128)
    assert found.missing == ()
    assert identify(WEIGHTS / "pixart" / "transformer").family == "pixart"
    for side, tokens, sequence in ((512, 1024, 120), (1024, 4096, 300)):
        file = headers_only(tmp_path / f"{side}.safetensors", pixart_shapes(tokens, sequence))
        alone = identify(file)
        assert (alone.family, alone.layout, alone.width, alone.depth) == ("pixart", "original", 1152, 28)
        assert (alone.size, alone.native_side) == ("published", side)
        assert alone.variant == ("sigma" if sequence == 300 else "")
        assert alone.missing == ("text_encoder", "vae")
        assert alone.parts[0].gaps == ()


def pixart_shapes(tokens: int, sequence: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of PixArt's own checkpoints, as far as they matter here."""
    width = 1152
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "y_embedder.y_embedding": (sequence, 4096),
        "y_embedder.y_proj.fc1.weight": (width, 4096),
        "t_block.1.weight": (6 * width, width),
        "t_block.1.bias": (6 * width,),
        "x_embedder.proj.bias": (width,),
        "final_layer.linear.weight": (32, width),
        "final_layer.linear.bias": (32,),
    }
    for layer in ("t_embedder.mlp.0", "t_embedder.mlp.2"):
        shapes |= {f"{layer}.weight": (width, width), f"{layer}.bias": (width,)}
    for block in range(28):
        shapes[f"blocks.{block}.scale_shift_table"] = (6, width)
        shapes[f"blocks.{block}.cross_attn.q_linear.weight"] = (width, width)
    return shapes


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,), "img_in.weight": (3072, 64)}, "flux"),
        (
            {
                "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (128,),
                "model.diffusion_model.img_in.weight": (3072, 64),
            },
            "flux",
        ),
        ({"joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,)}, "sd3"),
        ({"text_model.embeddings.token_embedding.weight": (10, 4)}, "text_encoder"),
        ({"shared.weight": (10, 4), "encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4)}, "text_encoder"),
        ({"decoder.conv_in.weight": (8, 4, 3, 3), "decoder.conv_out.weight": (3, 8, 3, 3)}, "vae"),
        ({"lora_unet_mid.lora_up.weight": (4, 2), "lora_unet_mid.lora_down.weight": (2, 4)}, "lora"),
        ({"unet.mid.lora_A.weight": (4, 2), "unet.mid.lora_B.weight": (2, 4)}, "lora"),
        ({"lora_unet_mid.hada_w1_a": (4, 2), "lora_unet_mid.hada_w1_b": (2, 4), "lora_unet_mid.alpha": ()}, "lora"),
        ({"layers.0.q": (4, 2)}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_other_families_are_told_by_their_names(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], family: str
) -> None:
    found = identify(headers_only(tmp_path / "x.safetensors", shapes))
    assert found.family == family
    assert found.why
    if family in ("flux", "sd3"):
        assert found.prediction == Statement("flow", "its architecture")


def test_full_size_sdxl_is_told_from_a_miniature_and_from_a_pruned_one(tmp_path: Path, state: dict[str, Any]) -> None:
    shapes = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "time_embed.0.weight": (1280, 320),
        "label_emb.0.0.weight": (1280, 2816),
    }
    for depth, size in ((70, "published"), (24, "other")):
        blocks = {f"middle_block.1.transformer_blocks.{k}.attn2.to_k.weight": (1280, 2048) for k in range(depth)}
        found = identify(headers_only(tmp_path / f"{depth}.safetensors", {**shapes, **blocks}))
        assert (found.family, found.width, found.depth, found.size) == ("sdxl", 320, depth, size)


UNET = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
PIXART = {"num_layers": 28, "sample_size": 128, "caption_channels": 4096}
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "family", "size", "parameters"),
    [
        ("UNet2DConditionModel", SDXL, "sdxl", "published", 2_567_463_684),
        ("UNet2DConditionModel", UNET, "sd1", "published", 859_520_964),
        ("PixArtTransformer2DModel", PIXART, "pixart", "published", 611_349_152),
        ("SD3Transformer2DModel", {"num_layers": 2, "caption_projection_dim": 1152}, "sd3", None, None),
        ("AutoencoderKL", VAE, "vae", None, 83_653_863),
    ],
)
def test_full_size_networks_of_diffusers_are_whole_in_our_eyes(
    tmp_path: Path, kind: str, config: dict[str, Any], family: str, size: str | None, parameters: int | None
) -> None:
    """Made without memory for their weights; no tensor may be called missing, and the count is the known one."""
    import diffusers
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = getattr(diffusers, kind)(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = identify(headers_only(tmp_path / "x.safetensors", shapes))
    assert (found.family, found.size) == (family, size)
    assert found.parts[0].gaps == ()
    assert parameters in (None, found.parts[0].parameters)


def test_a_full_size_refiner_without_its_text_encoder_is_told_by_its_widths(tmp_path: Path) -> None:
    shapes = {
        "input_blocks.0.0.weight": (384, 4, 3, 3),
        "time_embed.0.weight": (1536, 384),
        "label_emb.0.0.weight": (1536, 2560),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1536, 1280),
    }
    assert identify(headers_only(tmp_path / "x.safetensors", shapes)).family == "sdxl_refiner"


def test_an_entry_of_the_hubs_cache_is_found_with_its_name(
    tmp_path: Path, lay_out: Callable[..., Path], sdxl: Path
) -> None:
    snapshot = lay_out(tmp_path, "Laxhar/noobai-XL-Vpred-1.0", sdxl)
    for place in (tmp_path / "models--Laxhar--noobai-XL-Vpred-1.0", snapshot):
        found = identify(place)
        assert found.family == "sdxl"
        assert ("its name on the Hub", "Laxhar/noobai-XL-Vpred-1.0") in found.names
        assert [s.type for s in found.stated] == ["epsilon", "v_prediction"]


def test_our_own_files_are_known() -> None:
    earlier = Path(__file__).parents[1] / "earlier" / "runs_0_0"
    run = identify(earlier / "ldm")
    assert (run.family, run.layout, run.in_channels) == ("ldm", "ldm_run", 3)
    assert run.prediction == Statement("sample", "the recipe in state.json")
    assert identify(earlier / "ldm" / "checkpoints" / "epoch-3").family == "ldm"
    adapter = identify(earlier / "adapter_latent.safetensors")
    assert (adapter.family, adapter.depth) == ("style_adapter", 2)


class _Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.bin", "x.PTH", "x.SafeTensors", "x.safetensors"])
def test_a_pickle_is_refused_under_every_name_and_never_runs(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(_Canary(canary)))
    with pytest.raises(RequestError, match="pickled"):
        identify(tmp_path / name)
    assert not canary.exists()


def test_a_folder_of_pickled_weights_is_refused_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(RequestError, match="pickled"):
        identify(tmp_path)


def _raw(header: str, data: bytes = b"") -> bytes:
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_raw("[" * 200_000), "not JSON"),
        (_raw('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', bytes(4)), "twice"),
        (_raw('{"__metadata__": []}'), "metadata"),
        (_raw('{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}', bytes(4)), "lacks"),
        (_raw('{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}', bytes(4)), "lacks"),
        (_raw('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', bytes(4)), "lacks"),
        (_raw('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', bytes(4)), "lacks"),
        (_raw('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', bytes(8)), "no tensor"),
        (
            _raw(
                '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
                ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
                bytes(4),
            ),
            "two tensors",
        ),
        (_raw('{"a": 3}'), "lacks"),
        (struct.pack("<Q", 2**62) + b"{}", "too few"),
        (b"", "too few"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match=message):
        identify(tmp_path / "x.safetensors")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_in_an_answer_or_in_one_of_our_errors(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, framed: bool
) -> None:
    file = tmp_path_factory.mktemp("any") / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content if framed else content)
    try:
        assert isinstance(identify(file), CheckpointIdentity)
    except BottegaError:
        pass


KNOWN = [
    "input_blocks.0.0.weight", "time_embed.0.weight", "label_emb.0.0.weight", "conv_in.weight",
    "time_embedding.linear_1.weight", "add_embedding.linear_1.weight", "mid_block.attentions.0.proj_in.weight",
    "middle_block.1.transformer_blocks.7.attn2.to_k.weight", "adaln_single.linear.weight", "pos_embed",
    "caption_projection.linear_1.weight", "pos_embed.proj.weight", "t_block.1.weight", "y_embedder.y_embedding",
    "y_embedder.y_proj.fc1.weight", "x_embedder.proj.weight", "joint_blocks.0.context_block.adaLN_modulation.1.bias",
    "double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", "decoder.conv_in.weight", "shared.weight",
    "decoder.conv_out.weight", "resblocks.9.x", "up_blocks.3.x", "v_pred", "a.lora_A.weight", "a.alpha",
]  # fmt: skip
PREFIXES = ["", "model.diffusion_model.", "first_stage_model.", "conditioner.embedders.1.model.", "cond_stage_model."]
ENTRIES = st.tuples(
    st.sampled_from(PREFIXES), st.sampled_from(KNOWN), st.lists(st.integers(0, 3), max_size=5).map(tuple)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ENTRIES, max_size=12))
def test_known_names_with_shapes_that_they_never_have_end_in_an_answer(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    shapes = {prefix + name: shape for prefix, name, shape in entries}
    found = identify(headers_only(tmp_path_factory.mktemp("odd") / "x.safetensors", shapes))
    assert found.why


def test_what_is_not_there_and_what_is_unclear_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        identify(tmp_path / "absent.safetensors")
    with pytest.raises(RequestError, match="no model of a known layout"):
        identify(tmp_path)
    for name in ("a", "b"):
        save_file({"x": np.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(RequestError, match="2 safetensors files"):
        identify(tmp_path)


def test_a_title_of_a_megabyte_is_shortened_and_loses_its_control_characters(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    title = "\x1b]0;owned\x07" + "A" * 1_000_000
    found = identify(write(tmp_path / "x.safetensors", state, {"modelspec.title": title}))
    assert len(found.title) == 200
    assert found.title.isprintable()


def test_torch_is_not_needed(tmp_path: Path) -> None:
    words = (
        "import sys; from pathlib import Path; from bottega.models.identify import identify; "
        f"print(identify(Path({str(WEIGHTS / 'sdxl')!r})).family); "
        "print(*sorted({'torch', 'diffusers', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sdxl"]
