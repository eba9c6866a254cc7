"""The test that each style similarity has to pass on paintings, with embeddings whose gap is known."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.evaluation.style_similarity import style_gap


def paintings(strength: float, styles: int = 6, each: int = 4, width: int = 64) -> tuple[np.ndarray, list[str]]:
    """Embeddings that share `strength` of their variance within a style, and the styles' names."""
    rng = np.random.default_rng(3)
    centres = np.repeat(rng.normal(size=(styles, width)), each, axis=0)
    own = rng.normal(size=(styles * each, width))
    mixed = np.sqrt(strength) * centres + np.sqrt(1 - strength) * own
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True), [f"s{k // each}" for k in range(styles * each)]


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_the_gap_is_the_share_that_paintings_of_a_style_have_in_common(strength: float) -> None:
    found = style_gap(*paintings(strength, styles=20, each=6, width=512))
    assert found["gap"] == pytest.approx(100 * strength, abs=4)
    assert found["low"] < found["gap"] < found["high"]
    assert found["discriminates"]


def test_embeddings_that_know_nothing_of_style_do_not_pass() -> None:
    embeddings, labels = paintings(0.0)
    assert not style_gap(embeddings, labels)["discriminates"]
    shuffled = np.random.default_rng(0).permutation(labels).tolist()
    assert not style_gap(paintings(0.9)[0], shuffled)["discriminates"]


def test_the_gap_is_that_of_all_pairs_one_by_one() -> None:
    embeddings, labels = paintings(0.3)
    same, other = [], []
    for i in range(len(labels)):
        for k in range(i):
            (same if labels[i] == labels[k] else other).append(100 * float(embeddings[i] @ embeddings[k]))
    found = style_gap(embeddings, labels)
    assert found["same"] == pytest.approx(np.mean(same))
    assert found["other"] == pytest.approx(np.mean(other))


def test_styles_of_one_painting_each_cannot_be_tested_and_say_so() -> None:
    embeddings, _ = paintings(0.5)
    found = style_gap(embeddings, [f"s{k}" for k in range(len(embeddings))])
    assert found["status"].startswith("unavailable: it takes 8 style pictures or more of two labels or more")
    assert "gap" not in found
