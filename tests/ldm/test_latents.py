"""Latents are computed once: what is read equals what was computed, and nothing is computed twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bottega.ldm.autoencoder import MockVAE
from bottega.ldm.data import CaptionedDataset, CaptionedPicture
from bottega.ldm.latents import SHARD, encode
from bottega.runtime.errors import Interrupted, NonFiniteError
from bottega.runtime.files import read_json

FACTS = {"world": 1}


class Counting(MockVAE):
    """The real one, which notes how many pictures it was shown."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__(factor)
        self.seen = 0

    def encode(self, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
        self.seen += len(pictures)
        return super().encode(pictures)


def picture(index: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def samples(count: int, held_out: Sequence[int] = ()) -> CaptionedDataset:
    def sample(index: int) -> CaptionedPicture:
        return CaptionedPicture(f"picture {index}", ("",), lambda: picture(index))

    return CaptionedDataset([sample(i) for i in range(count)], [sample(i) for i in held_out])


def direct(indices: Sequence[int]) -> torch.Tensor:
    return MockVAE(2).encode(np.stack([picture(i) for i in indices]))


def test_what_is_read_equals_what_was_computed_and_is_not_computed_again(tmp_path: Path) -> None:
    some = samples(SHARD + 40, held_out=[9000, 9001, 9002])
    first, again = Counting(), Counting()
    one, other = (encode(some, FACTS, vae, tmp_path) for vae in (first, again))
    assert (first.seen, again.seen) == (SHARD + 43, 0)
    assert torch.equal(one.training, direct(range(SHARD + 40))) and torch.equal(
        one.held_out, direct([9000, 9001, 9002])
    )
    assert torch.equal(one.training, other.training) and torch.equal(one.held_out, other.held_out)
    assert one.statistics == other.statistics
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["held_out_00000.safetensors", "train_00000.safetensors", "train_00001.safetensors"]


def test_a_longer_list_computes_what_is_missing_and_a_shorter_one_nothing(tmp_path: Path) -> None:
    encode(samples(SHARD + 32), FACTS, Counting(), tmp_path)
    longer, shorter = Counting(), Counting()
    found = encode(samples(SHARD + 64), FACTS, longer, tmp_path)
    assert longer.seen == 32 and torch.equal(found.training, direct(range(SHARD + 64)))
    found = encode(samples(10), FACTS, shorter, tmp_path)
    assert shorter.seen == 0 and torch.equal(found.training, direct(range(10)))


def test_a_list_that_grows_amid_a_batch_is_still_what_it_would_be_at_once(tmp_path: Path) -> None:
    encode(samples(21), FACTS, Counting(), tmp_path)
    vae = Counting()
    assert torch.equal(encode(samples(50), FACTS, vae, tmp_path).training, direct(range(50)))
    assert 50 - 21 <= vae.seen <= 50 - 16  # the batch that was cut short is encoded in its full company


def test_pictures_that_took_the_place_of_others_are_seen(tmp_path: Path) -> None:
    before = samples(6)
    encode(before, FACTS, Counting(), tmp_path)
    new = CaptionedPicture("a new one, first in the folder", ("",), lambda: picture(77))
    found = encode(CaptionedDataset([new, *before.training[:5]], []), FACTS, Counting(), tmp_path)
    assert torch.equal(found.training, direct([77, 0, 1, 2, 3, 4]))


def test_a_picture_that_was_changed_under_its_name_is_encoded_again(tmp_path: Path) -> None:
    before, after = samples(3), samples(3)
    after.training[1] = replace(after.training[1], picture=lambda: picture(7), stamp="later")
    encode(before, FACTS, MockVAE(2), tmp_path)
    assert torch.equal(encode(after, FACTS, MockVAE(2), tmp_path).training, direct([0, 7, 2]))


@pytest.mark.parametrize("change", ["facts", "autoencoder"])
def test_other_facts_or_another_autoencoder_and_all_is_computed_again(tmp_path: Path, change: str) -> None:
    encode(samples(3), FACTS, Counting(), tmp_path)
    vae = Counting(1 if change == "autoencoder" else 2)
    found = encode(samples(3), {"world": 2} if change == "facts" else FACTS, vae, tmp_path)
    assert vae.seen == 3
    assert found.training.shape == ((3, 3, 4, 4) if change == "autoencoder" else (3, 3, 2, 2))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("damage", ["cut", "not finite", "a bit", "another shard", "a name"])
def test_a_damaged_shard_is_named_and_the_same_command_computes_it_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    some = samples(SHARD + 5)
    encode(some, FACTS, Counting(), tmp_path)
    shard = tmp_path / "train_00001.safetensors"
    whole = shard.read_bytes()
    damaged = {
        "cut": whole[:-7],
        "not finite": whole[:-4] + b"\xff\xff\xff\xff",
        "a bit": flipped(whole, len(whole) - 3),
        "another shard": (tmp_path / "train_00000.safetensors").read_bytes(),
        "a name": whole.replace(b"picture 513", b"picture 514", 1),
    }
    shard.write_bytes(damaged[damage])
    again = Counting()
    assert torch.equal(encode(some, FACTS, again, tmp_path).training, direct(range(SHARD + 5)))
    assert again.seen == 5
    assert "train_00001.safetensors is damaged" in caplog.text
    assert shard.read_bytes() == whole


def test_a_shard_of_an_earlier_version_is_read_as_it_is(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    encode(samples(5), FACTS, Counting(), tmp_path)
    names = json.dumps([f"picture {index}" for index in range(5)])
    save_file({"latents": direct(range(5)).contiguous()}, tmp_path / "train_00000.safetensors", {"samples": names})
    again = Counting()
    encode(samples(5), FACTS, again, tmp_path)
    assert again.seen == 0


def test_a_damaged_manifest_costs_time_and_nothing_else(tmp_path: Path) -> None:
    encode(samples(5), FACTS, Counting(), tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    assert torch.equal(encode(samples(5), FACTS, Counting(), tmp_path).training, direct(range(5)))


def test_an_autoencoder_that_gives_no_number_is_reported_with_the_picture(tmp_path: Path) -> None:
    class Overflowing(MockVAE):
        """Gives what a half-precision autoencoder gives of some pictures."""

        def encode(self, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
            latents = super().encode(pictures)
            latents[2, 0, 1, 1] = torch.inf
            return latents

    encode(samples(16), FACTS, MockVAE(2), tmp_path)
    with pytest.raises(NonFiniteError, match="for picture 18; "):
        encode(samples(21), FACTS, Overflowing(2), tmp_path)


def test_the_statistics_are_those_of_the_training_latents(tmp_path: Path) -> None:
    found = encode(samples(7, held_out=[500]), FACTS, Counting(), tmp_path)
    values = direct(range(7)).double().numpy()
    wanted = {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
        "absmax": np.abs(values).max(),
    }
    assert found.statistics == pytest.approx(wanted, abs=1e-6)
    kept = read_json(tmp_path / "manifest.json")
    assert kept["statistics"] == found.statistics and kept["pictures"] == 7


def test_who_asks_to_stop_waits_for_one_batch_and_loses_none_of_what_was_encoded(tmp_path: Path) -> None:
    class Stopped(Counting):
        def encode(self, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
            if self.seen == 64:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().encode(pictures)

    stopped, again = Stopped(), Counting()
    with pytest.raises(Interrupted):
        encode(samples(200), FACTS, stopped, tmp_path)
    assert torch.equal(encode(samples(200), FACTS, again, tmp_path).training, direct(range(200)))
    assert stopped.seen == 80 and again.seen == 120


def test_nothing_held_out_is_an_empty_tensor(tmp_path: Path) -> None:
    assert len(encode(samples(2), FACTS, Counting(), tmp_path).held_out) == 0
