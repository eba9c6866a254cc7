"""The full recipe's layouts, at small size, load through the code that loads the miniature, and the pipelines run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bottega.models.config import ModelsConfig
from bottega.models.layout import SENTENCEPIECE
from bottega.models.loading import (
    choose_device,
    choose_dtype,
    inspect,
    load_pixart_parts,
    load_teacher_pipeline,
    load_tokenizer,
    missing,
    weight_files,
)
from bottega.runtime.errors import MissingError, RequestError, StorageError

Makers = dict[str, Callable[..., Path]]
CPU: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
SHARDED = ("transformer", "text_encoder", "vae", "scheduler")


def _teacher(published: Path, **options: Any) -> Any:
    return load_teacher_pipeline(published / "sdxl", published / "ip_adapter", **{**CPU, **options})


def _stylise(pipeline: Any, seeds: tuple[int, ...] = (0, 1), **options: Any) -> np.ndarray:
    """The teacher's protocol in short, DDIM included, on pictures of 64 px."""
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    rng = np.random.default_rng(0)
    contents = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in seeds]
    style = Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8))
    pipeline.set_ip_adapter_scale(0.3)
    out = pipeline(
        prompt=["a red circle"] * len(seeds), image=contents, ip_adapter_image=[[style] * len(seeds)], strength=0.4,
        num_inference_steps=5, guidance_scale=3.5, generator=[torch.Generator().manual_seed(s) for s in seeds],
        output_type="np", **options,
    )  # fmt: skip
    return np.asarray(out.images)


def test_the_teacher_of_the_published_layout_paints(published: Path) -> None:
    pipeline = _teacher(published)
    assert (
        type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    )  # the folder's own, until the protocol sets its own
    painted = _stylise(pipeline)
    assert type(pipeline).__name__ == "StableDiffusionXLImg2ImgPipeline"
    assert painted.shape == (2, 64, 64, 3)
    assert np.isfinite(painted).all()
    assert pipeline.watermark is None
    assert pipeline.feature_extractor.crop_size["height"] == 32  # the encoder's size, not 224
    assert not any(
        module.training for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.image_encoder)
    )


def test_the_pipeline_is_the_one_that_the_library_loads_itself(published: Path) -> None:
    """Same weights, same pictures as `from_pretrained` + `load_ip_adapter` in a user's own script."""
    from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    sdxl, ip = published / "sdxl", published / "ip_adapter"
    ours = _teacher(published)
    theirs = StableDiffusionXLImg2ImgPipeline(
        vae=AutoencoderKL.from_pretrained(sdxl / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(sdxl / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(sdxl / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(sdxl / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(sdxl / "tokenizer_2"),
        unet=UNet2DConditionModel.from_pretrained(sdxl / "unet"),
        scheduler=ours.scheduler,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(ip / "image_encoder"),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
        add_watermarker=False,
    )
    theirs.load_ip_adapter(str(ip), subfolder="", weight_name="ip-adapter_sdxl.safetensors", local_files_only=True)
    assert np.abs(_stylise(ours) - _stylise(theirs)).max() == 0.0


def test_every_key_of_the_ip_adapter_lands_in_its_layer(published: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(published / "ip_adapter" / "ip-adapter_sdxl.safetensors")
    processors = list(_teacher(published).unet.attn_processors.values())
    for number in range(1, len(processors), 2):
        assert torch.equal(processors[number].to_k_ip[0].weight, tensors[f"ip_adapter.{number}.to_k_ip.weight"])
        assert torch.equal(processors[number].to_v_ip[0].weight, tensors[f"ip_adapter.{number}.to_v_ip.weight"])


def test_the_style_reaches_the_picture(published: Path) -> None:
    pipeline = _teacher(published)
    with_style = _stylise(pipeline)
    pipeline.set_ip_adapter_scale = lambda scale: type(pipeline).set_ip_adapter_scale(pipeline, 0.0)
    assert np.abs(with_style - _stylise(pipeline)).max() > 1e-3


def test_another_autoencoder_can_take_the_place_of_the_folders_own(
    published: Path, tmp_path: Path, make: Makers
) -> None:
    tiny = make["vae"](tmp_path / "tiny", force_upcast=False, kind="AutoencoderTiny")
    pipeline = _teacher(published, vae=tiny)
    assert type(pipeline.vae).__name__ == "AutoencoderTiny"
    assert np.isfinite(_stylise(pipeline)).all()


def test_an_autoencoder_of_another_class_is_refused(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "sdxl" / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config | {"_class_name": "VQModel"}))
    with pytest.raises(RequestError, match="AutoencoderKL, AutoencoderTiny, received VQModel"):
        _teacher(published, vae=tmp_path / "vae")


def _overflowing(folder: Path) -> None:
    """Make a KL autoencoder's activations, not its weights, pass 65 504 and come back, as SDXL's do in float16."""
    from safetensors.torch import load_file, save_file

    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in ("decoder.conv_in.weight", "encoder.conv_in.weight"):
        tensors[name] = tensors[name] * 2e5
        assert tensors[name].half().isfinite().all()
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.filterwarnings("ignore:.*upcast_vae.* is deprecated:FutureWarning")
@pytest.mark.parametrize("upcast", [True, False])
def test_a_kl_autoencoder_that_overflows_in_float16_is_upcast_by_its_configuration(
    published: Path, tmp_path: Path, make: Makers, upcast: bool
) -> None:
    """Through the pipeline's own call: finite with force_upcast, and not without it, which proves that it overflows."""
    vae = make["vae"](tmp_path / "vae", force_upcast=upcast)
    _overflowing(vae)
    pipeline = _teacher(published, vae=vae, dtype="float16")
    assert pipeline.vae.dtype == pipeline.unet.dtype == torch.float16
    with np.errstate(invalid="ignore"):
        painted = _stylise(pipeline)
    assert bool(np.isfinite(painted).all()) is upcast
    assert pipeline.vae.dtype == torch.float16  # moved back for the next call


def test_the_kl_posterior_is_drawn_from_each_pictures_own_generator(published: Path) -> None:
    """A picture's latents are the same alone and in a batch, and differ between seeds: the posterior has a variance."""
    pipeline = _teacher(published)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def encode(which: list[int], seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return pipeline.prepare_latents(
            pictures[which],
            torch.tensor([1]),
            len(which),
            1,
            torch.float32,
            torch.device("cpu"),
            generators,
            add_noise=False,
        )

    both = encode([0, 1], [5, 6])
    assert torch.equal(both[1:], encode([1], [6]))
    assert (encode([0], [5]) - encode([0], [7])).abs().max() > 1e-4


def test_weights_published_only_as_fp16_load_in_any_precision(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "sdxl", tmp_path / "sdxl")
    for file in list(tmp_path.rglob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    pipeline = load_teacher_pipeline(tmp_path / "sdxl", published / "ip_adapter", **CPU)
    assert pipeline.unet.dtype == torch.float32
    assert np.abs(_stylise(pipeline) - _stylise(_teacher(published))).max() == 0.0


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_loaded(
    published: Path, tmp_path: Path, make: Makers
) -> None:
    """In a process of its own, where torch has not been imported when the refusal comes."""
    make["image_encoder"](tmp_path / "ip" / "image_encoder", projection=16)
    shutil.copy(published / "ip_adapter" / "ip-adapter_sdxl.safetensors", tmp_path / "ip")
    code = (
        "import sys; from pathlib import Path; from bottega.models.loading import load_teacher_pipeline\n"
        f"try: load_teacher_pipeline(Path({str(published / 'sdxl')!r}), Path({str(tmp_path / 'ip')!r}))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RequestError ip-adapter_sdxl.safetensors and its models don't belong together")


def test_torn_weights_are_refused_by_their_header(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "sdxl", tmp_path / "sdxl")
    file = tmp_path / "sdxl" / "text_encoder_2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        load_teacher_pipeline(tmp_path / "sdxl", published / "ip_adapter", **CPU)


def test_weights_of_another_size_than_their_configuration_are_a_one_line_refusal(
    published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / "pixart" / "transformer", tmp_path / "pixart" / "transformer")
    config = tmp_path / "pixart" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"caption_channels": 48', '"caption_channels": 40'))
    with pytest.raises(RequestError, match=r"don't make a PixArtTransformer2DModel") as refusal:
        load_pixart_parts(tmp_path / "pixart", ["transformer"], **CPU)
    assert "\n" not in str(refusal.value)


def test_pixart_comes_in_parts_and_only_those_asked_for(published: Path) -> None:
    parts = load_pixart_parts(published / "pixart", SHARDED, **CPU)
    transformer, text = parts["transformer"], parts["text_encoder"]
    assert set(parts) == set(SHARDED)
    assert (transformer.config.out_channels, transformer.config.sample_size, transformer.config.patch_size) == (
        8,
        64,
        2,
    )
    assert not any(p.requires_grad for part in ("transformer", "text_encoder", "vae") for p in parts[part].parameters())
    ids = torch.tensor([[3, 4, 1, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        states = text(ids, attention_mask=mask).last_hidden_state
        added = {"resolution": None, "aspect_ratio": None}
        out = transformer(
            torch.randn(1, 4, 8, 8),
            states,
            timestep=torch.tensor([400]),
            encoder_attention_mask=mask,
            added_cond_kwargs=added,
        ).sample
    assert out.shape == (1, 8, 8, 8)
    assert parts["scheduler"].config.beta_schedule == "linear"


def test_tensors_under_their_published_names_arrive_in_todays_classes(published: Path) -> None:
    """text_model.* in SDXL's first encoder, query/key/value in PixArt's autoencoder, diffusers 0.22's transformer."""
    from safetensors.torch import load_file

    text = load_file(published / "sdxl" / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in text)
    loaded = {n.removeprefix("text_model."): t for n, t in _teacher(published).text_encoder.state_dict().items()}
    assert all(
        torch.equal(loaded[n.removeprefix("text_model.")], t) for n, t in text.items() if "position_ids" not in n
    )
    stored = load_file(published / "pixart" / "vae" / "diffusion_pytorch_model.safetensors")
    vae = load_pixart_parts(published / "pixart", ["vae"], **CPU)["vae"].state_dict()
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        place = "decoder.mid_block.attentions.0"
        assert torch.equal(stored[f"{place}.{old}.weight"], vae[f"{place}.{new}.weight"])
    assert '"Transformer2DModel"' in (published / "pixart" / "transformer" / "config.json").read_text()


def test_sharded_text_encoder_equals_the_librarys_own(published: Path) -> None:
    from transformers import T5EncoderModel

    ours = load_pixart_parts(published / "pixart", ["text_encoder"], **CPU)["text_encoder"].state_dict()
    theirs = T5EncoderModel.from_pretrained(published / "pixart" / "text_encoder").state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_t5s_published_tokenizer_is_read_or_its_reader_asked_for(published: Path) -> None:
    folder = published / "pixart" / "tokenizer"
    if importlib.util.find_spec("sentencepiece") is None:
        with pytest.raises(MissingError, match="pip install sentencepiece"):
            load_tokenizer(folder)
        return
    tokens = load_tokenizer(folder)(["a red circle"], padding="max_length", max_length=8, return_tensors="pt")
    assert tokens.input_ids.tolist() == [[3, 5, 7, 1, 0, 0, 0, 0]]


def test_an_unknown_part_is_refused(published: Path) -> None:
    with pytest.raises(RequestError, match="'unet' is not a part of PixArt"):
        load_pixart_parts(published / "pixart", ["unet"], **CPU)


def test_auto_means_float32_on_the_cpu() -> None:
    assert choose_dtype("auto", "cpu") == torch.float32
    assert choose_dtype("bfloat16", "cpu") == torch.bfloat16
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(RequestError, match="none that torch knows"):
        choose_device("gpu please")
    with pytest.raises(MissingError, match="CUDA devices here"):
        choose_device("cuda:99")
    with pytest.raises(RequestError, match="not one of auto"):
        choose_dtype("int8", "cpu")


def test_each_of_several_processes_has_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda",
        "cuda:1",
        "cpu",
    ]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(MissingError, match="cuda:2 asked for, 2 CUDA devices here"):
        choose_device("auto")


def _cached(published: Path, cache: Path, lay_out: Callable[..., Path]) -> ModelsConfig:
    lay_out(cache, "stabilityai/stable-diffusion-xl-base-1.0", published / "sdxl")
    lay_out(cache, "h94/IP-Adapter", published / "ip_adapter", inside="sdxl_models")
    lay_out(cache, "PixArt-alpha/PixArt-XL-2-512x512", published / "pixart")
    lay_out(cache, "openai/clip-vit-large-patch14", published / "clip")
    lay_out(cache, "facebook/dino-vitb8", published / "structure_encoder")
    return ModelsConfig(
        sdxl="stabilityai/stable-diffusion-xl-base-1.0", ip_adapter="h94/IP-Adapter/sdxl_models",
        pixart="PixArt-alpha/PixArt-XL-2-512x512",
        clip="openai/clip-vit-large-patch14", structure_encoder="facebook/dino-vitb8", cache=str(cache),
    )  # fmt: skip


def test_the_full_recipes_models_load_from_a_hub_cache(
    published: Path, tmp_path: Path, lay_out: Callable[..., Path]
) -> None:
    models = _cached(published, tmp_path / "hub", lay_out)
    reader = importlib.util.find_spec("sentencepiece") is not None
    assert missing(models) == ([] if reader else [f"models.pixart: {SENTENCEPIECE}"])
    places = {found.role: found.folder for found in inspect(models)}
    pipeline = load_teacher_pipeline(places["sdxl"], places["ip_adapter"], **CPU)
    assert np.abs(_stylise(pipeline) - _stylise(_teacher(published))).max() == 0.0
    load_pixart_parts(places["pixart"], SHARDED, **CPU)


def test_what_is_missing_is_said_with_the_command_and_without_torch(
    published: Path, tmp_path: Path, lay_out: Callable[..., Path]
) -> None:
    models = _cached(published, tmp_path / "hub", lay_out)
    shutil.rmtree(tmp_path / "hub" / "models--facebook--dino-vitb8")
    sdxl = tmp_path / "hub" / "models--stabilityai--stable-diffusion-xl-base-1.0" / "snapshots"
    next(sdxl.glob("*/vae/config.json")).unlink()
    code = (
        "import sys, json; from bottega.models.config import ModelsConfig; from bottega.models.loading import missing\n"
        f"print(json.dumps(missing(ModelsConfig(**json.loads({models.model_dump_json()!r})))))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in json.loads(done.stdout) if "sentencepiece" not in line]
    assert [line.split(":")[0] for line in lines] == ["models.sdxl", "models.structure_encoder"]
    assert "get it: bottega models fetch stabilityai/stable-diffusion-xl-base-1.0 --model-cache" in lines[0]
    assert lines[1].endswith(f"get it: bottega models fetch facebook/dino-vitb8 --model-cache {tmp_path / 'hub'}")


def test_provenance_names_the_files_that_loading_reads(published: Path) -> None:
    def names(place: str) -> list[str]:
        return [str(f.relative_to(published)) for f in weight_files(published / place)]

    assert names("sdxl") == [
        "sdxl/text_encoder/model.safetensors",
        "sdxl/text_encoder_2/model.safetensors",
        "sdxl/unet/diffusion_pytorch_model.safetensors",
        "sdxl/vae/diffusion_pytorch_model.safetensors",
    ]
    both = ["ip_adapter/image_encoder/model.safetensors", "ip_adapter/ip-adapter_sdxl.safetensors"]
    assert names("ip_adapter") == names("ip_adapter/ip-adapter_sdxl.safetensors") == both
    assert names("clip") == ["clip/model.safetensors"]
    assert sum("text_encoder/model-" in name for name in names("pixart")) >= 2
