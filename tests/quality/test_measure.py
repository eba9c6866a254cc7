"""Each score against a closed form or a picture whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from bottega.quality.detectors import edge_map, gradients, line_spectrum
from bottega.quality.measuring import HF_FLOOR, Judge, difference, luminance, measure
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.visual.pictures import to_uint8

from .conftest import Triple, plain_encoder


def grey(value: int, size: int = 128) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_the_difference_of_128_and_129_is_one_level_and_does_not_wrap_around() -> None:
    assert difference(grey(128), grey(129)) == pytest.approx(1 / 255, abs=1e-9)
    assert difference(grey(129), grey(128)) == pytest.approx(1 / 255, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, (16, 16, 3)), arrays(np.uint8, (16, 16, 3)))
def test_the_difference_equals_that_of_wide_integers(one: np.ndarray, other: np.ndarray) -> None:
    expected = np.abs(one.astype(int) - other.astype(int)).mean() / 255
    assert difference(one, other) == pytest.approx(expected, abs=1e-9)


def test_an_untouched_copy_keeps_everything_and_changes_and_gains_nothing(triples: list[Triple]) -> None:
    for content, style, _ in triples[:8]:
        scores = measure(content, content, style, encoder=plain_encoder)
        assert scores["change"] == 0
        assert scores["style_gain"] == pytest.approx(0, abs=1e-6)
        assert scores["edge_64"] == pytest.approx(1, abs=1e-5)
        assert scores["edge_128"] == pytest.approx(1, abs=1e-5)
        assert scores["content_sim"] == pytest.approx(1, abs=1e-5)


def test_blocks_that_the_autoencoder_makes_of_any_picture_are_none_of_this_ones(triples: list[Triple]) -> None:
    def blocky(picture: np.ndarray) -> np.ndarray:
        tiles = cv2.resize(picture, (side // 8, side // 8), interpolation=cv2.INTER_AREA)
        return cv2.addWeighted(picture, 0.5, cv2.resize(tiles, (side, side), interpolation=cv2.INTER_NEAREST), 0.5, 0)

    content, style, truth = triples[0]
    side = truth.shape[0]
    alone = measure(blocky(truth), content, style, encoder=None)["blocking"]
    beside = measure(blocky(truth), content, style, encoder=None, round_trip=blocky(content))["blocking"]
    assert alone > 0.1
    assert beside < 0.5 * alone


def test_a_picture_that_is_the_autoencoders_round_trip_counts_as_unchanged(triples: list[Triple]) -> None:
    content, style, _ = triples[0]
    blurred = cv2.GaussianBlur(content, (0, 0), 1.5)
    assert measure(blurred, content, style, encoder=None)["change"] > 0
    assert measure(blurred, content, style, encoder=None, round_trip=blurred)["change"] == 0


def test_gradient_energy_of_a_ramp_is_its_slope_squared_and_its_steepest_slope_is_its_slope() -> None:
    ramp = np.tile(np.arange(0, 192, 3, dtype=np.uint8), (64, 1))
    energy, slope = gradients(ramp)
    inner = energy * 64 / 62  # OpenCV mirrors at the border, where a ramp's slope is then 0
    assert inner == pytest.approx((3 / 255) ** 2, rel=1e-4)
    assert slope / 2 == 3


@pytest.mark.parametrize("shape", [(64, 64), (100, 130), (300, 200), (512, 256)])
def test_the_line_spectrum_is_the_mean_of_its_tiles_periodograms(shape: tuple[int, int]) -> None:
    luma = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    window = np.outer(*[np.hanning(66)[1:-1]] * 2)
    powers = []
    for top in (0, shape[0] - 64) if shape[0] >= 128 else (0,):
        for left in (0, shape[1] - 64) if shape[1] >= 128 else (0,):
            tile = luma[top : top + 64, left : left + 64].astype(float)
            powers.append(np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2 / (window**2).sum())
    found = line_spectrum(luma)
    assert found is not None
    assert np.allclose(found, np.log(np.mean(powers, axis=0) + 256), atol=1e-3)


def test_what_a_large_picture_is_sampled_for_is_seen_wherever_it_is_everywhere() -> None:
    rng = np.random.default_rng(1)
    content = cv2.resize(rng.integers(40, 200, (8, 8, 3), np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    assert measure(content + np.uint8(3), content, content, encoder=None)["change"] == pytest.approx(3 / 255, abs=1e-6)
    noisy = np.uint8(np.clip(content + rng.normal(0, 12, content.shape), 0, 255))
    waves = np.uint8(content + 20 * (np.indices((512, 512)).sum(0) % 4 < 2)[..., None])
    plain = measure(content, content, content, encoder=None)
    for picture, score in ((noisy, "noise"), (noisy, "hf_ratio"), (waves, "mesh"), (waves, "sharpness")):
        assert measure(picture, content, content, encoder=None)[score] > plain[score] + 0.5


def test_a_smooth_content_does_not_blow_the_frequency_ratio_up() -> None:
    rng = np.random.default_rng(0)
    noisy = (128 + rng.normal(0, 2, (128, 128, 3))).astype(np.uint8)
    scores = measure(noisy, grey(128), grey(90), encoder=None)
    assert scores["hf_ratio"] == pytest.approx(gradients(luminance(noisy))[0] / HF_FLOOR, rel=1e-4)
    assert scores["hf_ratio"] < 1


def test_frequency_is_compared_with_the_stronger_of_content_and_style(triples: list[Triple]) -> None:
    content, style, truth = triples[0]
    energies = [gradients(luminance(p))[0] for p in (truth, content, style)]
    assert measure(truth, content, style, encoder=None)["hf_ratio"] == pytest.approx(
        energies[0] / max(energies[1:]), rel=1e-4
    )


def test_edge_similarity_is_pearsons_correlation(triples: list[Triple]) -> None:
    content, style, truth = triples[3]
    maps = [edge_map(luminance(p), 64) for p in (content, truth)]
    assert maps[0] is not None
    assert maps[1] is not None
    expected = np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1]
    assert measure(truth, content, style, encoder=None)["edge_64"] == pytest.approx(expected, abs=1e-5)


def test_edges_of_the_right_content_are_nearer_than_those_of_another(triples: list[Triple]) -> None:
    own = [measure(t.truth, t.content, t.style, encoder=None)["edge_64"] for t in triples]
    others = [
        measure(t.truth, o.content, t.style, encoder=None)["edge_64"]
        for t, o in zip(triples, triples[1:] + triples[:1], strict=True)
    ]
    assert np.mean(np.array(own)[:, None] > np.array(others)[None]) > 0.97


def test_a_flat_content_leaves_the_edge_scores_out_and_a_flat_picture_scores_zero(triples: list[Triple]) -> None:
    content, style, truth = triples[0]
    assert "edge_64" not in measure(truth, grey(100), style, encoder=None)
    assert measure(grey(100), content, style, encoder=None)["edge_64"] == 0


def test_brightness_spread_and_clipping_have_their_closed_forms() -> None:
    half = grey(0)
    half[:, 64:] = 255
    scores = measure(half, grey(128), grey(128), encoder=None)
    assert scores["bright"] == pytest.approx(1, abs=1e-6)
    assert scores["spread"] == pytest.approx(0.5, abs=1e-4)
    assert scores["clipped"] == pytest.approx(1, abs=1e-6)
    assert scores["vivid"] == 0
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert measure(red, grey(0, 32), grey(0, 32), encoder=None)["vivid"] == pytest.approx(1, abs=1e-6)


def test_excess_is_relative_to_content_and_style() -> None:
    white = grey(255)
    assert measure(white, white, grey(128), encoder=None)["clipped_excess"] == 0
    assert measure(white, grey(128), white, encoder=None)["clipped_excess"] == 0
    assert measure(white, grey(128), grey(90), encoder=None)["clipped_excess"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_seen_before_any_cast(bad: float, triples: list[Triple]) -> None:
    content, style, truth = triples[0]
    picture = truth.astype(np.float32) / 255
    picture[5, 6, 1] = bad
    scores = measure(picture, content, style, encoder=plain_encoder)
    large = np.ones((1024, 1024, 3), np.float32) * 0.5
    large[0, 0, 0] = bad
    assert measure(large, content, style, encoder=None)["finite"] < 1
    assert set(scores) == {"finite"}
    assert scores["finite"] < 1
    with pytest.raises(NonFiniteError, match="finite before it is cast"):
        to_uint8(picture)


def test_float_and_uint8_of_one_picture_score_the_same(triples: list[Triple]) -> None:
    content, style, truth = triples[1]
    floats = truth.astype(np.float32) / 255
    assert measure(floats, content, style, encoder=plain_encoder) == measure(
        truth, content, style, encoder=plain_encoder
    )


def test_scores_do_not_depend_on_the_batch_or_on_what_is_kept(triples: list[Triple]) -> None:
    judge = Judge(plain_encoder, capacity=3)
    alone = [measure(t.truth, t.content, t.style, encoder=plain_encoder) for t in triples[:6]]
    for _ in range(2):
        together = judge.measure(
            [t.truth for t in triples[:6]],
            [t.content for t in triples[:6]],
            [t.style for t in triples[:6]],
            keys=[(f"c{i}", f"s{i}") for i in range(6)],
        )
        assert together == alone


def test_without_an_encoder_the_similarities_are_absent_and_nothing_is_nan(triples: list[Triple]) -> None:
    content, style, truth = triples[0]
    scores = measure(truth, content, style, encoder=None)
    assert not {"content_sim", "style_sim", "style_gain"} & set(scores)
    assert all(np.isfinite(v) for v in scores.values())


def test_pictures_of_other_shapes_are_refused_with_the_cure(triples: list[Triple]) -> None:
    content, style, truth = triples[0]
    with pytest.raises(RequestError, match="load_square"):
        measure(truth[:64, :64], content, style, encoder=None)
    with pytest.raises(RequestError, match="uint8"):
        measure(truth[..., 0], content, style, encoder=None)
