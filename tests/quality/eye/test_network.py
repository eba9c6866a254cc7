"""The eye's network: the same in NumPy as in torch, trained on what it is given and on nothing that is left out."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bottega.quality.damage import CAUSES, FAMILIES
from bottega.quality.eye.cells import GRID
from bottega.quality.eye.inputs import NUM_CELL, NUM_PICTURE, network_inputs
from bottega.quality.eye.network import DISTANCE_FLOOR, Network
from bottega.quality.eye.training.examples import GOOD, TRY, GoodPictures, examples, made_up
from bottega.quality.eye.training.fit import FitConfig, cause_numbers, export, fit, verdicts
from bottega.quality.eye.training.model import EyeNetwork
from bottega.quality.eye.training.store import ExampleStore
from bottega.runtime.errors import RequestError

SEEN = ("washed", "colour_noise", "scrambled", "black_box")


def _plain_pictures(index: int, side: int) -> GoodPictures:
    return made_up(index, side, kinds=("oil", "photograph"))


@pytest.fixture(scope="module")
def store() -> ExampleStore:
    """Examples of twenty small triples."""
    found = []
    for index in range(20):
        found += list(examples(index, 128, _plain_pictures, families=SEEN, bad=3, nameless=0))
    return ExampleStore.collect(found)


def test_the_network_in_numpy_is_the_one_in_torch(store: ExampleStore, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = EyeNetwork().eval()
    export(network, tmp_path / "eye.safetensors")
    # Read back, for both must have the rounding to half precision.
    rounded = {name: value.half().float() for name, value in network.state_dict().items()}
    network.load_state_dict(rounded)
    ours = Network.load(tmp_path / "eye.safetensors")
    inputs = network_inputs(store.measured(np.arange(6)))
    assert inputs.cells.shape == (6, GRID, GRID, NUM_CELL)
    assert inputs.picture.shape == (6, NUM_PICTURE)
    with torch.no_grad():
        cells, verdict = network(torch.from_numpy(inputs.cells), torch.from_numpy(inputs.picture))
    for number in range(6):
        seen = ours(network_inputs(store.measured(np.array(number))))
        assert np.abs(seen.cells - cells[number].numpy()).max() < 1e-4
        assert abs(seen.logit - float(verdict[number, 0])) < 1e-4
        expected = max(float(torch.exp(verdict[number, 1])) - DISTANCE_FLOOR, 0.0)
        assert seen.distance == pytest.approx(expected, rel=1e-3)
        assert np.abs(seen.causes - verdict[number, 2:].numpy()).max() < 1e-4
    assert (tmp_path / "eye.safetensors").stat().st_size < 2_000_000
    with pytest.raises(RequestError, match="one picture"):
        ours(inputs)


def test_a_fit_tells_damaged_pictures_from_good_ones_and_names_their_cause(store: ExampleStore) -> None:
    losses = []
    network = fit(store, FitConfig(steps=60, batch=24), report=losses.append)
    assert len(losses) == 60
    found = verdicts(network, store, np.arange(len(store)))
    bad = ~store.is_good
    assert float((found[bad, 0] > np.quantile(found[~bad, 0], 0.9)).mean()) > 0.8
    right = found[bad, 2:].argmax(1) == cause_numbers(store.family[bad])
    assert float(right.mean()) > 0.8


def test_a_fit_is_the_same_each_time(store: ExampleStore) -> None:
    one, other = (fit(store, FitConfig(steps=4, batch=8, seed=3)).state_dict() for _ in range(2))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_examples_of_a_family_that_is_left_out_change_nothing(store: ExampleStore) -> None:
    config = FitConfig(steps=4, batch=8)
    left_out = frozenset({"washed"})
    rest = store.family != "washed"
    spoiled = replace(store, own=np.where(rest[:, None, None, None], store.own, np.float16(0)))
    assert not np.array_equal(spoiled.own, store.own)
    one, other = (fit(part, config, left_out=left_out).state_dict() for part in (store, spoiled))
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_store_comes_back_from_its_shard_and_is_joined_by_triples(store: ExampleStore, tmp_path: Path) -> None:
    store.save(tmp_path / "shard.npz")
    again = ExampleStore.load(tmp_path / "shard.npz")
    for field in fields(ExampleStore):
        ours, theirs = getattr(again, field.name), getattr(store, field.name)
        assert np.array_equal(ours, theirs, equal_nan=field.name == "distance"), field.name
    both = ExampleStore.joined([store, again])
    last = np.array([len(store) - 1, 2 * len(store) - 1])
    measured = both.measured(last)
    for values in (measured.content, measured.style, measured.own):
        assert np.array_equal(values[0], values[1])
    assert both.triple[-1] == 39
    assert set(both.family) <= {GOOD, *SEEN}


def test_a_fit_learns_the_distance_where_it_is_known(store: ExampleStore) -> None:
    distance = np.where(store.is_good, 1.0, 6.0).astype(np.float32)
    distance[::2] = np.nan
    known = replace(store, distance=distance)
    network = fit(known, FitConfig(steps=120, batch=24))
    estimates = verdicts(network, known, np.arange(len(known)))[:, 1]
    assert np.isfinite(estimates).all()
    hidden = np.isnan(distance)
    good, bad = estimates[hidden & store.is_good], estimates[hidden & ~store.is_good]
    assert float(np.median(bad)) > float(np.median(good)) + 0.5


def test_a_teachers_tries_teach_how_surely_they_are_damaged_and_nothing_of_causes_and_cells(
    store: ExampleStore,
) -> None:
    family = store.family.astype("<U20")
    is_try = np.arange(len(store)) % 5 == 0
    family[is_try] = TRY
    severity = np.where(is_try, 1.0, store.severity).astype(np.float32)
    tries = replace(store, family=family, severity=severity)
    config = FitConfig(steps=4, batch=16)
    one = fit(tries, config).state_dict()
    # Another mask of a try changes nothing, another probability does.
    masks = np.where(is_try[:, None, None], 255 - store.mask, store.mask)
    other = fit(replace(tries, mask=masks), config).state_dict()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    sound = np.where(is_try, 0.0, severity).astype(np.float32)
    changed = fit(replace(tries, severity=sound), config).state_dict()
    assert not torch.equal(one["verdict2.bias"], changed["verdict2.bias"])


def test_causes_are_numbered_in_their_order() -> None:
    numbers = cause_numbers(np.array(["washed", "blur"]))
    assert [CAUSES[number] for number in numbers] == [FAMILIES["washed"].cause, FAMILIES["blur"].cause]
