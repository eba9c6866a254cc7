"""Encoders answer what the libraries answer, whatever a picture is batched with."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.evaluation.conftest import save_style_encoder
from transformers import CLIPModel, SegformerForSemanticSegmentation, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from bottega.models.config import ModelsConfig
from bottega.models.encoders import (
    ClipEncoder,
    SceneReader,
    StructureEncoder,
    StyleClassifier,
    StyleEncoder,
    _pooled,
)
from bottega.models.layout import inspect
from bottega.models.preprocessing import Preprocessing
from bottega.runtime.errors import MissingError, RequestError

CPU = {"device": "cpu"}


@pytest.mark.parametrize(
    ("folder", "processor"),
    [
        ("clip", CLIPImageProcessorPil),
        ("structure_encoder", ViTImageProcessorPil),
        ("scene_reader", SegformerImageProcessorPil),
        ("style_classifier", ConvNextImageProcessorPil),
    ],
)
@pytest.mark.parametrize("shape", [(96, 80), (80, 96), (33, 130), (56, 56), (40, 40), (201, 57)])
def test_pictures_are_prepared_as_the_librarys_pil_backend_does(
    published: Path, folder: str, processor: type, shape: tuple[int, int]
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = processor.from_pretrained(published / folder)(images=[picture], return_tensors="np")["pixel_values"]
    ours = Preprocessing.read(published / folder)([picture])
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1e-6


def test_a_picture_smaller_than_the_crop_is_padded_as_the_library_does() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (41, 50, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(do_resize=False, crop_size={"height": 56, "width": 47})
    ours = Preprocessing.of(processor.to_dict(), Path("x"))([picture])
    assert np.abs(ours - processor(images=[picture], return_tensors="np")["pixel_values"]).max() <= 1e-6


def test_preprocessing_inside_processor_config_is_read(published: Path, tmp_path: Path) -> None:
    config = json.loads((published / "clip" / "preprocessor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": config, "processor_class": "CLIPProcessor"})
    )
    assert Preprocessing.read(tmp_path) == Preprocessing.read(published / "clip")


def test_a_model_without_its_preprocessing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"preprocessor_config\.json"):
        Preprocessing.read(tmp_path)


def test_pictures_that_are_not_uint8_rgb_are_refused(published: Path) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], received float64"):
        Preprocessing.read(published / "clip")([np.zeros((8, 8, 3))])


def test_answers_do_not_depend_on_the_batch(published: Path, pictures: np.ndarray) -> None:
    small, large = (
        {
            "clip": ClipEncoder(published / "clip", batch_size=n, **CPU),
            "style": StyleClassifier(published / "style_classifier", batch_size=n, **CPU),
            "structure": StructureEncoder(published / "structure_encoder", batch_size=n, **CPU),
        }
        for n in (1, 4)
    )
    for ask in (
        lambda e: e["clip"].image(pictures),
        lambda e: e["clip"].patches(pictures),
        lambda e: e["clip"].text(["a red circle", "blue", "a b in the style of a square", "a", "b"]),
        lambda e: e["style"].probabilities(pictures),
        lambda e: e["structure"].keys(pictures),
    ):
        one, many = ask(small), ask(large)
        assert one.dtype == many.dtype == np.float32
        assert one.shape[0] == len(pictures)
        assert np.abs(one - many).max() <= 1e-5


def test_clip_embeddings_are_the_models_own_at_unit_norm(published: Path, pictures: np.ndarray) -> None:
    encoder = ClipEncoder(published / "clip", **CPU)
    model = CLIPModel.from_pretrained(published / "clip").eval()
    pixels = torch.from_numpy(Preprocessing.read(published / "clip")(pictures))
    texts = ["a red circle", "the blue square"]
    ids = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = model(pixel_values=pixels, **ids)
    assert np.abs(encoder.image(pictures) - whole.image_embeds.numpy()).max() <= 1e-5
    assert np.abs(encoder.text(texts) - whole.text_embeds.numpy()).max() <= 1e-5
    assert encoder.image(pictures).shape == (5, encoder.width)
    assert encoder.patches(pictures).shape == (5, encoder.tokens, encoder.token_width)


def test_patch_tokens_are_the_hidden_states_of_the_last_layer_but_one(published: Path, pictures: np.ndarray) -> None:
    encoder = ClipEncoder(published / "clip", batch_size=2, **CPU)
    model = CLIPModel.from_pretrained(published / "clip").eval()
    pixels = torch.from_numpy(Preprocessing.read(published / "clip")(pictures))
    with torch.no_grad():
        theirs = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    ours = encoder.patches(pictures)
    assert np.abs(ours - theirs[-2].numpy()).max() <= 1e-5
    assert np.abs(ours - theirs[-1].numpy()).max() > 1e-2


def test_features_of_transformers_4_and_5_are_both_understood() -> None:
    class Output:
        pooler_output = torch.ones(2, 3)

    assert torch.equal(_pooled(torch.ones(2, 3)), _pooled(Output()))


def test_a_text_that_is_cut_is_logged(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ClipEncoder(published / "clip", **CPU)
    with caplog.at_level(logging.WARNING):
        encoder.text(["a red circle", "red " * 40])
    assert "1 of 2 texts exceed 16 tokens" in caplog.text


def test_style_probabilities_sum_to_one_under_the_models_labels(published: Path, pictures: np.ndarray) -> None:
    classifier = StyleClassifier(published / "style_classifier", **CPU)
    probabilities = classifier.probabilities(pictures)
    assert classifier.labels == ["cubism", "realism", "pointillism"]
    assert probabilities.shape == (5, 3)
    assert np.abs(probabilities.sum(axis=1) - 1).max() <= 1e-6


def test_structure_keys_are_the_key_projection_of_the_last_block(published: Path, pictures: np.ndarray) -> None:
    keys = StructureEncoder(published / "structure_encoder", **CPU).keys(pictures)
    model = ViTModel.from_pretrained(published / "structure_encoder", add_pooling_layer=False).eval()
    state = {
        n: t
        for n, t in model.state_dict().items()
        if n.endswith(("k_proj.weight", "key.weight", "k_proj.bias", "key.bias"))
    }
    last = sorted(state)[-2:]  # bias and weight of the last of three blocks
    norm = next(t for n, t in model.named_modules() if n.endswith("2.layernorm_before"))
    with torch.no_grad():
        hidden = model(
            torch.from_numpy(Preprocessing.read(published / "structure_encoder")(pictures)), output_hidden_states=True
        )
        expected = norm(hidden.hidden_states[2]) @ state[last[1]].T + state[last[0]]
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    assert keys.shape == (5, 17, 32)  # 4 × 4 patches and the class token
    assert np.abs(keys - expected).max() <= 1e-5


def test_the_structure_encoders_embedding_is_the_models_last_class_token(published: Path, pictures: np.ndarray) -> None:
    encoder = StructureEncoder(published / "structure_encoder", **CPU)
    model = ViTModel.from_pretrained(published / "structure_encoder", add_pooling_layer=False).eval()
    with torch.no_grad():
        pixels = torch.from_numpy(Preprocessing.read(published / "structure_encoder")(pictures))
        expected = model(pixels).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    assert np.abs(encoder.embedding(pictures) - expected).max() <= 1e-5
    both = encoder.keys_and_embedding(pictures)
    assert np.array_equal(both[:, :-1], encoder.keys(pictures))


def test_a_style_descriptor_is_the_pooled_picture_tower_times_the_matrix(
    published: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    """Against the reference's own steps: the tower without its projection, the matrix, unit norm."""
    folder = save_style_encoder(published / "clip", tmp_path / "csd", width=7)
    model = CLIPModel.from_pretrained(published / "clip").eval()
    matrix = load_file(folder / "style_projection.safetensors")["style"]
    with torch.no_grad():
        pixels = torch.from_numpy(Preprocessing.read(folder)(pictures))
        expected = model.vision_model(pixel_values=pixels).pooler_output @ matrix
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    found = StyleEncoder(folder, **CPU).embedding(pictures)
    assert np.abs(found - expected).max() <= 1e-5
    one_by_one = np.concatenate([StyleEncoder(folder, batch_size=1, **CPU).embedding(pictures)])
    assert np.abs(found - one_by_one).max() <= 1e-5


def test_a_style_encoder_without_its_matrix_is_no_style_encoder(
    published: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    folder = save_style_encoder(published / "clip", tmp_path / "csd")
    save_file({"last_layer_style": torch.zeros(8, 2)}, folder / "style_projection.safetensors")
    with pytest.raises(RequestError, match="must hold the tensor `style` of shape"):
        StyleEncoder(folder, **CPU)
    (folder / "style_projection.safetensors").unlink()
    (status,) = inspect(ModelsConfig(style_encoder=str(folder)), ["style_encoder"])
    assert "no style_projection.safetensors in it" in status.faults[0]


def test_scene_reader_equals_the_librarys_own_post_processing(published: Path, pictures: np.ndarray) -> None:
    reader = SceneReader(published / "scene_reader", **CPU)
    processor = SegformerImageProcessorPil.from_pretrained(published / "scene_reader")
    model = SegformerForSemanticSegmentation.from_pretrained(published / "scene_reader").eval()
    with torch.no_grad():
        out = model(**processor(images=list(pictures), return_tensors="pt"))
    theirs = torch.stack(processor.post_process_semantic_segmentation(out, [(96, 80)] * 5)).numpy()
    ours = reader.segment(pictures)
    assert reader.labels == ["background", "circle", "square"]
    assert ours.dtype == np.uint8
    assert ours.shape == (5, 96, 80)
    assert (ours != theirs).mean() < 1e-4  # a pixel may sit on the border between two classes


def test_half_precision_on_disk_is_computed_in_float32(published: Path, tmp_path: Path, pictures: np.ndarray) -> None:
    shutil.copytree(published / "clip", tmp_path / "clip")
    CLIPModel.from_pretrained(published / "clip").half().save_pretrained(tmp_path / "clip")
    encoder = ClipEncoder(tmp_path / "clip", **CPU)
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    assert np.abs(encoder.image(pictures) - ClipEncoder(published / "clip", **CPU).image(pictures)).max() < 5e-3


def test_pictures_of_different_sizes_are_read_one_by_one(published: Path, pictures: np.ndarray) -> None:
    encoder = ClipEncoder(published / "clip", **CPU)
    mixed = encoder.image([pictures[0], pictures[1][:64]])
    assert np.abs(mixed[0] - encoder.image(pictures[:1])[0]).max() <= 1e-5


def test_weights_that_lack_tensors_are_refused_not_filled_with_noise(published: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(published / "structure_encoder", tmp_path / "vit")
    file = tmp_path / "vit" / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if name.endswith("layernorm.weight"))
    save_file({n: t for n, t in tensors.items() if n != gone}, file, metadata={"format": "pt"})
    with pytest.raises(RequestError, match="lack 1 of the tensors"):
        StructureEncoder(tmp_path / "vit", **CPU)


def test_advice_to_install_torchvision_is_shown_by_no_handler_and_other_warnings_are() -> None:
    """In a process of its own, set up as the command line sets up its own: transformers hands on what it is told."""
    code = (
        "import logging\n"
        "from bottega.runtime.logs import set_up_logging\n"
        "set_up_logging(logging.WARNING)\n"
        "from bottega.models.libraries import prepare\n"
        "prepare()\n"
        "logger = logging.getLogger('transformers.models.auto')\n"
        "logger.warning('`X` requires torchvision (not installed); falling back to `Y`')\n"
        "logger.warning('another')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torchvision" not in done.stderr
    assert "another" in done.stderr


def test_a_broken_torchvision_is_hidden_not_fatal(tmp_path: Path) -> None:
    """In a process of its own: a torchvision that is installed and raises, as one built for another torch does."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from bottega.models.libraries import prepare; prepare()\n"
        "from transformers.utils import is_torchvision_available\n"
        "from transformers import CLIPModel, CLIPImageProcessor\n"
        "assert not is_torchvision_available()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torchvision is installed but can't be imported" in done.stderr
    assert importlib.util.find_spec("torchvision") is None
