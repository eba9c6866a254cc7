"""What the teacher's samples and its guidance are, checked against their definitions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bottega.miniature
from bottega.miniature.builder import architectures, sdxl_task, train
from bottega.miniature.builder.encoding import SDXLText
from bottega.miniature.builder.features import Features
from bottega.miniature.builder.ip_adapter import add_ip_adapter, read_unet
from bottega.miniature.builder.sdxl_task import FULL_SCALE, SDXLTask
from bottega.miniature.builder.tokenizers import clip_tokenizer
from bottega.miniature.builder.trainer import Trainer, TrainingPlan
from bottega.miniature.scenes import SHAPES, scene
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng

WEIGHTS = Path(bottega.miniature.__file__).parent / "weights"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> SDXLTask:
    """The real task on untrained encoders and three shards of four painters."""
    folder = tmp_path_factory.mktemp("sdxl")
    words = clip_tokenizer(folder / "tokenizer")
    clip = architectures.clip(len(words), words.eos_token_id).eval()
    second = architectures.second_text_encoder(len(words), words.eos_token_id).eval()
    features = Features(folder / "features", architectures.autoencoder().eval(), clip, painters=4)
    features.require(3)
    return SDXLTask(features, SDXLText(words, clip, second), batch=8, num_siblings=8)


def errors_of_one(task: SDXLTask, monkeypatch: pytest.MonkeyPatch) -> list[sdxl_task._Batch]:
    """Let every sample have an error of 1 and a reading of 1; returns the batches, in the order they are judged."""
    seen: list[sdxl_task._Batch] = []

    def errors(batch: sdxl_task._Batch, _step: int) -> torch.Tensor:
        seen.append(batch)
        return torch.ones(len(batch.scale))

    monkeypatch.setattr(task, "_errors", errors)
    monkeypatch.setattr(task.reading, "loss", lambda labels: torch.ones(len(labels)))
    return seen


def test_the_path_starts_at_the_noised_content_and_every_point_leads_to_the_target(task: SDXLTask) -> None:
    batch = task._teacher_batch(numpy_rng("test", 0), 8)
    batch.timestep = batch.start
    x = task._on_path(batch)
    noised = task._alpha(batch.start) * batch.content + task._sigma(batch.start) * batch.noise
    assert float((x - noised).abs().max()) < 1e-5
    remaining = task._noise_towards(x, batch)
    clean = (x - task._sigma(batch.start) * remaining) / task._alpha(batch.start)
    assert float((clean - batch.target).abs().max()) < 1e-4


def test_guidance_makes_the_whole_of_what_was_learned_at_the_scale_that_belongs_to_it(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = task._teacher_batch(numpy_rng("test", 1), 8)
    batch.captions, batch.style = ["a red circle"] * 8, torch.ones_like(batch.style)
    base, full = torch.randn(2, *batch.target.shape)
    monkeypatch.setattr(task, "_predict", lambda x, *_: base[: len(x)])
    guidance = np.array([FULL_SCALE / 0.30, 1.0] * 4)
    learned = full.clone()
    task._share_of_guidance(full, learned, batch, guidance)
    strong = guidance > 1
    assert torch.equal(learned[~strong], full[~strong])
    guided = base[: strong.sum()] + 3.5 * (learned[strong] - base[: strong.sum()])
    assert float((guided - full[strong]).abs().max()) < 1e-5


def test_a_sample_without_any_condition_learns_what_guidance_starts_from(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = task._teacher_batch(numpy_rng("test", 2), 8)
    batch.captions, batch.style = [""] * 8, torch.zeros_like(batch.style)
    full = torch.randn(batch.target.shape)
    monkeypatch.setattr(task, "_predict", lambda x, *_: torch.zeros_like(x))
    learned = full.clone()
    task._share_of_guidance(full, learned, batch, np.full(8, 3.5))
    assert torch.equal(learned, full)


def test_each_sample_has_its_own_scale_and_zero_is_no_adapter(task: SDXLTask) -> None:
    batch = task._teacher_batch(numpy_rng("test", 4), 3)
    states, pooled = task._encode(batch.captions)
    scales = np.array([0.0, 0.3, 1.0], np.float32)
    style = torch.randn(batch.style.shape)
    given = (batch.content, batch.timestep, states, pooled)
    with torch.no_grad():
        together = task._predict(*given, style, scales)
        other_style = task._predict(*given, torch.randn(style.shape), scales)
        for k in range(3):
            one = tuple(value[k : k + 1] for value in given)
            alone = task._predict(*one, style[k : k + 1], scales[k : k + 1])
            difference = (alone - together[k : k + 1]).abs().mean()
            assert float(difference) < 0.02 * float(together.std())  # bfloat16 rounds
    assert torch.equal(together[0], other_style[0])
    assert not torch.equal(together[1], other_style[1])
    assert not torch.equal(together[2], other_style[2])


def test_one_step_in_noise_is_where_the_network_says(task: SDXLTask, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = task._teacher_batch(numpy_rng("test", 3), 8)
    own = np.arange(8) % 2 == 1
    ratio = (task._alpha(batch.start) / task._sigma(batch.start))[own]
    right = batch.noise[own] + ratio * (batch.content - batch.target)[own]
    monkeypatch.setattr(task, "_predict", lambda *arguments, **_: right)
    states, pooled = task._encode(batch.captions)
    reached = task._by_own_guess(batch, own, states, pooled)
    assert float((reached - task._on_path(batch)[own]).abs().max()) < 1e-4  # a perfect guess stays on the path


def test_a_sibling_style_is_another_painting_by_the_same_painter(task: SDXLTask) -> None:
    features = task.features
    for row in range(len(features)):
        shard, place = features.place(row)
        others = [features.styles[k][place] for k in range(3) if k != shard]
        for draw in range(5):
            style = features.sibling_style(row, draw)
            assert any(np.array_equal(style, other) for other in others)


def test_it_trains_and_resumes_to_the_bit(task: SDXLTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.miniature.builder.sdxl_task.OWN_GUESSES_FROM", 0)
    first = {name: _values(module) for name, module in task.modules.items()}

    def run(folder: Path, ends: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for name, module in task.modules.items():
            module.load_state_dict(first[name])
        for end in ends:
            trainer = Trainer(task, folder, TrainingPlan(warm_up=1, end=end, measure_every=99))
            trainer.train()
        return {n: p.detach().clone() for n, p in trainer.parameters.items()}

    whole, parts = run(tmp_path / "whole", (3,)), run(tmp_path / "parts", (1, 3))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for module_name in ("unet", "reading"):
        values = first[module_name]
        assert any(not torch.equal(whole[f"{module_name}.{name}"], value) for name, value in values.items())


def _values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_what_is_exported_predicts_in_diffusers_what_the_training_did(
    task: SDXLTask, tiny_models: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    for folder in ("sdxl", "ip_adapter"):
        shutil.copytree(tiny_models / folder, tmp_path / folder)
    before = {name: value.clone() for name, value in task.unet.state_dict().items()}
    task.write(tmp_path)
    for name, value in task.unet.state_dict().items():  # it goes on training as it was
        assert torch.equal(value, before[name])
    pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(tmp_path / "sdxl").to(torch.float32)
    pipeline.load_ip_adapter(
        str(tmp_path / "ip_adapter"),
        subfolder="",
        weight_name="ip_adapter.safetensors",
        image_encoder_folder="image_encoder",
    )
    pipeline.set_ip_adapter_scale(0.5)
    for processor in task.processors:
        processor.scale = [0.5]
    x, states = torch.randn(2, 4, 32, 32), torch.randn(2, 77, 2 * architectures.WIDTH)
    conditions = {
        "text_embeds": torch.randn(2, architectures.WIDTH),
        "time_ids": architectures.size_ids(2),
        "image_embeds": [torch.randn(2, 1, architectures.WIDTH)],
    }
    outputs = []
    for unet, read in ((task.unet, task.scaling(states)), (pipeline.unet, states)):
        with torch.no_grad():
            guess = unet(x, torch.tensor([100, 900]), encoder_hidden_states=read, added_cond_kwargs=conditions)
        outputs.append(guess.sample)
    assert float((outputs[0] - outputs[1]).abs().max()) < 0.02  # weights are rounded to float16
    assert float(outputs[0].std()) > 0.1


def test_a_training_begins_with_what_another_exported(task: SDXLTask, tmp_path: Path) -> None:
    for folder in ("sdxl/unet", "ip_adapter"):
        (tmp_path / folder).mkdir(parents=True)
    task.write(tmp_path)
    exported = architectures.deep_unet()
    add_ip_adapter(exported)
    read_unet(exported, tmp_path)
    other = SDXLTask(task.features, task.text.text)
    other.read(tmp_path)
    stored, original = other.unet.state_dict(), task.unet.state_dict()
    assert set(stored) == set(original)
    largest_matrix = float(task.scaling.inverse.abs().sum(1).max())
    for name, value in stored.items():
        rounding = 1e-3 * float(original[name].abs().max())  # of float16
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            raw = exported.state_dict()[name]
            rounding = 1e-3 * largest_matrix * float(raw.abs().max())
        assert torch.allclose(value, original[name], atol=rounding)


def test_scaled_states_and_weights_are_the_same_network_with_every_direction_of_one_size(task: SDXLTask) -> None:
    captions = ["a large red star at the top left on a white background", "a small blue ring", ""]
    states, _ = task.text.text(captions)
    scaled, _ = task.text(captions)
    layer = torch.nn.Linear(2 * architectures.WIDTH, 16, bias=False)
    unet = torch.nn.ModuleDict({"attn2": torch.nn.ModuleDict({"to_k": layer, "to_v": torch.nn.Linear(256, 16, False)})})
    with torch.no_grad():
        read = layer(states)
        task.scaling.enter(unet)
        assert torch.allclose(layer(scaled), read, atol=1e-3 * float(read.abs().max()))
    assert float(scaled[2].abs().max()) == 0.0  # no caption stays no caption
    tokens, _ = task.text([scene(i).caption(i) for i in range(64)])
    squares = torch.linalg.eigvalsh(torch.cov(tokens.flatten(0, 1).T))
    assert float(squares.max()) < 4.0  # before: up to a thousand times the mean


def test_folders_of_another_architecture_are_no_beginning(task: SDXLTask, tiny_models: Path) -> None:
    with pytest.raises(RequestError, match="must hold the architecture that is trained"):
        read_unet(task.unet, tiny_models)


@pytest.mark.parametrize(
    ("step", "samples", "words"),
    [
        (0, 16, 1.0),
        (sdxl_task.LARGER_BATCH_FROM, 32, 0.5),
    ],
)
def test_later_steps_are_larger_and_mostly_paintings(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch, step: int, samples: int, words: float
) -> None:
    monkeypatch.setattr(task, "focus", "teacher")
    seen = errors_of_one(task, monkeypatch)
    parts = [compute() for compute in task.microbatches(step)]
    from_words = [int((batch.scale == 0).sum()) for batch in seen]
    assert sum(from_words) == words * samples / 2
    assert sum(part.samples for part in parts) == samples
    # Every sample has the same weight, so a part counts by its size.
    assert sum(float(part.losses["words"]) for part in parts) == words
    assert sum(float(part.losses["teacher"]) for part in parts) == 2 - words


def test_words_first_are_drawn_at_half_of_the_side_beside_a_smaller_step_at_full_size(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "focus", "words")
    seen: list[tuple[int, ...]] = []
    sizes: list[float] = []
    unet = task.unet.forward

    def forward(x: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append(tuple(x.shape))
            sizes.append(float(keywords["added_cond_kwargs"]["time_ids"].max()))
        return unet(x, *arguments, **keywords)

    monkeypatch.setattr(task.unet, "forward", forward)
    parts = [compute() for compute in task.microbatches(0)]
    assert seen == [(48, 4, 16, 16), (12, 4, 32, 32)]
    assert sizes == [64.0, 128.0]  # pixels of the picture that the network is asked for
    assert [part.samples for part in parts] == [48, 12]
    assert set(parts[0].losses) == {"small_words", "small_reading"}
    assert all(bool(loss.isfinite()) for part in parts for loss in part.losses.values())


def test_a_focus_on_shapes_has_siblings_alone_in_two_parts_that_count_as_one(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "focus", "shapes")
    required: list[int] = []
    monkeypatch.setattr(task.features, "require", required.append)
    seen = errors_of_one(task, monkeypatch)
    parts = [compute() for compute in task.microbatches(0)]
    assert required == []  # no shard of the corpus is drawn for it
    assert [part.samples for part in parts] == [24, 24]
    assert [tuple(batch.target.shape) for batch in seen] == [(24, 4, 16, 16)] * 2
    assert not torch.equal(seen[0].noise, seen[1].noise)
    assert sum(float(part.losses["small_words"]) for part in parts) == 1.0
    assert sum(float(part.losses["small_reading"]) for part in parts) == pytest.approx(sdxl_task.READING_WEIGHT)


def test_a_focus_on_both_has_siblings_in_each_of_two_parts_that_count_as_one(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "focus", "both")
    required: list[int] = []
    monkeypatch.setattr(task.features, "require", required.append)
    seen = errors_of_one(task, monkeypatch)
    parts = [compute() for compute in task.microbatches(4_500)]  # as many steps as siblings alone took
    assert required == [sdxl_task.FIRST_SHARDS + 11]
    assert [part.samples for part in parts] == [32, 32]
    assert [tuple(batch.target.shape) for batch in seen] == [(18, 4, 16, 16), (14, 4, 32, 32)] * 2
    assert not torch.equal(seen[0].noise, seen[2].noise)
    assert not torch.equal(seen[1].noise, seen[3].noise)
    drawn = [int((batch.scale == 0).sum()) for batch in seen[1::2]]
    assert drawn == [sdxl_task.BOTH_WORDS + sdxl_task.BOTH_SIBLINGS] * 2  # the others are paintings with an IP-Adapter
    total: dict[str, float] = {}
    for part in parts:
        for name, loss in part.losses.items():
            total[name] = total.get(name, 0.0) + float(loss)
    assert total.pop("small_words") == 1.0
    of_14 = 2.0 / 14  # two parts' worth, shared by 14 samples of full size
    assert total == pytest.approx(
        {"words": 2 * of_14, "teacher": 0.5 * 6 * of_14, "siblings": 6 * of_14, "small_reading": 0.2, "reading": 0.2}
    )


def test_paintings_count_little_at_first_where_a_focus_on_both_begins(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "focus", "both")
    monkeypatch.setattr(task.features, "require", lambda _: None)
    errors_of_one(task, monkeypatch)

    def weight(step: int) -> float:
        losses = task.microbatches(step)[0]().losses
        return float(losses["teacher"]) / float(losses["siblings"])  # as many samples of both

    assert weight(0) == pytest.approx(0.05)
    assert weight(200) == pytest.approx(0.275)
    assert weight(400) == weight(5_000) == pytest.approx(0.5)


def test_distillation_aims_paintings_at_a_networks_predictions_and_captions_at_the_truth(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = SDXLTask(task.features, task.text.text)
    with torch.no_grad():
        teacher.unet.conv_out.bias.fill_(0.5)  # another network than the one in training
    batch = sdxl_task._joined(task._words_batch(numpy_rng("test", 6), 4), task._teacher_batch(numpy_rng("test", 7), 8))
    assert (batch.scale > 0).tolist() == [False] * 4 + [True] * 8
    aimed: list[torch.Tensor] = []
    places: list[torch.Tensor] = []

    def error(guess: torch.Tensor, wanted: torch.Tensor, _batch: sdxl_task._Batch) -> torch.Tensor:
        aimed.append(wanted)
        return (guess - wanted).square().mean((1, 2, 3))

    predict = task._predict

    def predicted(x: torch.Tensor, *conditions: Any) -> torch.Tensor:
        places.append(x)
        return predict(x, *conditions)

    monkeypatch.setattr(task, "_error", error)
    monkeypatch.setattr(task, "_predict", predicted)
    monkeypatch.setattr(task, "distil_from", teacher)
    errors = task._errors(batch, 0)  # step 0: no path begins at an own guess
    assert errors.requires_grad
    (x,), (wanted,) = places, aimed
    states, pooled = task._encode(batch.captions)
    with torch.no_grad():
        as_teacher = teacher._predict(x, batch.timestep, states, pooled, batch.style, batch.scale)
    assert not wanted.requires_grad
    assert torch.allclose(wanted[4:], as_teacher[4:], atol=1e-4)
    assert torch.equal(wanted[:4], task._noise_towards(x, batch)[:4])
    assert float((wanted[4:] - task._noise_towards(x, batch)[4:]).abs().mean()) > 0.1


def test_a_caption_is_encoded_once_and_its_states_depend_on_no_other(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ["a blue star on a white background", "", "a blue star on a white background", "a red ring"]
    task._encoded.clear()
    alone, _ = task._encode(captions[3:])
    task._encoded.clear()
    asked: list[str] = []
    text = task.text

    def counted(captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        asked.extend(captions)
        return text(captions)

    monkeypatch.setattr(task, "text", counted)
    states, pooled = task._encode(captions)
    assert asked == captions[:2] + captions[3:]
    assert torch.equal(states[3:], alone)  # to the bit: a resumed training has other captions in memory
    wanted, wanted_pooled = text(captions)
    # In float32 on every processor: bfloat16 is 2.7 % of the deviation off, 4 to 10 % of what a shape's word changes.
    assert float((states - wanted).abs().max()) < 1e-4 * float(wanted.std())
    assert float((pooled - wanted_pooled).abs().max()) < 1e-4 * float(wanted_pooled.std())
    assert float(states[1].abs().max()) == 0.0


def test_a_focus_on_words_waits_longer_for_the_next_shard(task: SDXLTask, monkeypatch: pytest.MonkeyPatch) -> None:
    required: list[int] = []
    monkeypatch.setattr(task.features, "require", required.append)
    for focus in ("teacher", "words"):
        monkeypatch.setattr(task, "focus", focus)
        task.microbatches(600)
    assert required == [sdxl_task.FIRST_SHARDS + 6, sdxl_task.FIRST_SHARDS + 2]


def test_half_of_the_side_is_the_mean_of_four_cells_with_noise_of_deviation_one(task: SDXLTask) -> None:
    whole = task._words_batch(numpy_rng("test", 5), 64)
    half = sdxl_task._halved(whole)
    cells = whole.target.reshape(64, 4, 16, 2, 16, 2).mean((3, 5))
    assert torch.allclose(half.target, cells, atol=1e-6)
    assert half.labels.shape == (64, 16, 16)
    assert abs(float(half.noise.std()) - 1) < 0.02
    assert half.captions == whole.captions


def test_an_export_has_the_averaged_weights_and_a_card_that_says_from_how_many_samples(
    task: SDXLTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in task.unet.state_dict().items()}
    trainer = Trainer(task, tmp_path / "state", TrainingPlan(end=1, measure_every=None))
    trainer.train()
    monkeypatch.setattr(train, "sdxl_task", lambda state, weights: task)
    output = tmp_path / "exported"
    assert train.export_sdxl(tmp_path / "state", WEIGHTS, output) == 1
    for folder in ("sdxl", "ip_adapter"):
        card = (output / folder / "README.md").read_text()
        assert "16 samples" in card
        assert "trained from scratch" in card
    written = load_file(output / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors")
    name = "conv_in.weight"
    assert torch.equal(written[name], trainer.average[f"unet.{name}"].half())
    assert not torch.equal(written[name], before[name].half())
    with pytest.raises(RequestError, match="must be a new one"):
        train.export_sdxl(tmp_path / "state", WEIGHTS, output)


def test_the_network_to_distil_from_is_that_of_its_folders_and_does_not_learn(tmp_path: Path) -> None:
    student = train.sdxl_task(tmp_path, WEIGHTS, "both", WEIGHTS)
    teacher = student.distil_from
    assert teacher is not None
    shipped = train.sdxl_task(tmp_path, WEIGHTS)
    assert shipped.distil_from is None
    shipped.read(WEIGHTS)
    wanted = shipped.unet.state_dict()
    for name, value in teacher.unet.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert not any(parameter.requires_grad for parameter in teacher.unet.parameters())
    assert not teacher.unet.training
    learning = [parameter for module in student.modules.values() for parameter in module.parameters()]
    frozen = {id(parameter) for parameter in teacher.unet.parameters()}
    assert not any(id(parameter) in frozen for parameter in learning)


def test_siblings_share_noise_path_and_timestep_and_name_their_shapes(task: SDXLTask) -> None:
    batch = task._siblings_batch(numpy_rng("test", 5), groups=3)
    assert task.siblings is not None
    for group in range(3):
        rows = slice(6 * group, 6 * group + 6)
        assert len(set(batch.timestep[rows])) == len(set(batch.start[rows])) == 1
        assert bool((batch.noise[rows] == batch.noise[6 * group]).all())
        named = [shape in caption for shape, caption in zip(SHAPES, batch.captions[rows], strict=True)]
        assert all(named) or set(batch.captions[rows]) == {""}
    assert float(batch.cells[0].amax() / batch.cells[0].amin()) == pytest.approx(12.0)  # where siblings differ
    assert torch.allclose(batch.cells.mean((1, 2, 3)), torch.ones(18), atol=1e-5)
