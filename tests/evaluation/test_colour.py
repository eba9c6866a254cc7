"""Palettes and the transfer of colour alone."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.evaluation.colour import from_lab, palette, palette_distance, to_lab, transfer_colours
from bottega.evaluation.controls import blur
from bottega.miniature.world import painter, render, scene


def test_a_shift_of_every_colour_is_its_distance() -> None:
    """Two flat pictures 10 ΔE apart are 10 apart: the unit is CIE76's."""
    one, two = (from_lab(np.full((8, 8, 3), lab, np.float32)) for lab in ((50, 0, 0), (60, 0, 0)))
    assert palette_distance(palette(one), palette(two)) == pytest.approx(10, abs=0.5)


def test_a_palette_is_blind_to_where_its_colours_lie() -> None:
    picture = render(scene(3), painter(3))
    turned = np.ascontiguousarray(picture[::-1, ::-1])
    assert palette_distance(palette(picture), palette(turned)) < 1


def test_a_palette_ends_where_the_truth_does_and_orders_what_is_further() -> None:
    found: dict[str, list[float]] = {}
    for number in range(24):
        view, by = scene(80_000 + number), painter(1000 + number)
        content, style, truth = render(view, None), render(scene(81_000 + number), by), render(view, by)
        flat = np.broadcast_to(style.reshape(-1, 3).mean(0).astype(np.uint8), style.shape)
        cases = {"truth": truth, "transfer": transfer_colours(content, style), "content": content, "one colour": flat}
        for name, picture in {**cases, "blurred": blur(truth)}.items():
            found.setdefault(name, []).append(palette_distance(palette(picture), palette(style)))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    assert means["truth"] < means["transfer"] < means["content"]
    assert means["truth"] < min(means["blurred"], means["one colour"]) / 1.5


def test_the_transfer_gives_the_content_the_styles_mean_and_covariance() -> None:
    rng = np.random.default_rng(0)  # muted colours, so that no clipping bends the statistics
    content, style = (
        from_lab(rng.multivariate_normal(mean, cov, (64, 64)).astype(np.float32))
        for mean, cov in (
            ((50, 5, 5), np.diag([60.0, 20.0, 20.0])),
            ((60, -10, 10), [[80, 10, 0], [10, 30, 5], [0, 5, 20]]),
        )
    )
    moved, wanted = (to_lab(p).reshape(-1, 3) for p in (transfer_colours(content, style), style))
    assert np.abs(moved.mean(0) - wanted.mean(0)).max() < 0.2
    assert np.abs(np.cov(moved.T) - np.cov(wanted.T)).max() < 2


def test_the_transfer_of_a_flat_picture_is_finite() -> None:
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert np.abs(transfer_colours(flat, flat).astype(int) - 90).max() <= 1
