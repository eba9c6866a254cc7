"""Claim: a 512 x 512 picture in memory is judged, everything but CLIP, 7.7 times faster than by plain NumPy.

python benchmarks/judging_speed.py [--full] [--json]

Timed is what the teacher does with each decoded picture, float32 [512, 512, 3] in 0..1: the finite test, the conversion
to uint8, all maps of the picture, and its comparison with content, style and the content's round trip, whose own maps
are kept. OpenCV runs on one thread, NumPy's part never has more; timed is what that thread used of the processor, in
ten rounds by turns, and the bar is held against the median ratio of a round. The peer asks fewer questions in plain
NumPy: finiteness, brightness, contrast, clipping, colourfulness, two edge maps, Sobel energy at full size, in floats.
On the machine and in the hour of the first measurement the bar stood for 3 ms a picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from common.bench import Arguments, conclude, say

from bottega.quality.measuring import compare, reference
from bottega.visual.pictures import to_uint8

SIDE, PICTURES, BAR = 512, 100, 7.7


def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content, style and target: blobs of colour with outlines, strokes and some grain."""
    rng = np.random.default_rng(0)
    content = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    content = cv2.GaussianBlur(content, (0, 0), 1.5)
    strokes = rng.normal(0, 40, (SIDE, SIDE, 3)).astype(np.float32)
    style = np.clip(130 + cv2.GaussianBlur(strokes, (0, 0), sigmaX=6, sigmaY=1.5) * 3, 0, 255).astype(np.uint8)
    target = np.clip(content * 0.8 + (style - 130.0) * 0.6 + 20, 0, 255).astype(np.float32) / 255
    return content, style, target


def peer(picture: np.ndarray) -> dict[str, float]:
    """The same questions as far as they go, in plain NumPy and floats."""
    found = {"finite": float(np.isfinite(picture).mean())}
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    luma = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    found["bright"] = float(np.percentile(luma, 99))
    found["spread"] = float(levels.reshape(-1, 3).std(0).max())
    found["clipped"] = float(((levels < 3) | (levels > 252)).mean())
    found["vivid"] = float(np.ptp(levels, axis=-1).mean())
    for side in (64, 128):
        small = cv2.GaussianBlur(cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 2.0)
        edges = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
        found[f"edge_{side}"] = float(cv2.GaussianBlur(edges, (0, 0), 1.0).mean())
    found["energy"] = float(np.mean(cv2.Sobel(luma, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(luma, cv2.CV_32F, 0, 1) ** 2))
    return found


def milliseconds(work: Callable[[], object], count: int) -> float:
    """Median of `count` calls."""
    taken = []
    for _ in range(count):
        begun = time.thread_time()
        work()
        taken.append(time.thread_time() - begun)
    return 1000 * float(np.median(taken))


def main() -> int:
    """Measure both in turn, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--rounds", short=10, full=40, help="of 100 pictures")
    asked = arguments.parse()
    cv2.setNumThreads(1)
    content, style, target = pictures()
    kept, other = reference(content), reference(style)
    round_trip = reference(cv2.GaussianBlur(content, (0, 0), 1.0))

    def own() -> object:
        return compare(reference(to_uint8(target)), kept, other, round_trip)

    own(), peer(target)
    rounds = []
    for number in range(asked.rounds):
        rounds.append((milliseconds(own, PICTURES), milliseconds(lambda: peer(target), PICTURES // 5)))
        say(f"round {number + 1} of {asked.rounds}: {rounds[-1][0]:.2f} ms, peer {rounds[-1][1]:.2f} ms")
    ours, theirs = (np.array(column) for column in zip(*rounds, strict=True))
    ratio = float(np.median(theirs / ours))
    result = {
        "claim": {"side": SIDE, "times_faster": BAR},
        "own": {"fastest_round": float(ours.min()), "median": float(np.median(ours))},
        "peer": {"fastest_round": float(theirs.min()), "median": float(np.median(theirs))},
        "ratio": ratio,
        "held": ratio >= BAR,
    }
    lines = [f"claim: a {SIDE} x {SIDE} picture is judged {BAR:g} times faster than by plain NumPy, on one core"]
    for who, times in (("own", ours), ("peer", theirs)):
        lines.append(f"{who:5} {times.min():6.2f} ms in the fastest round, {np.median(times):6.2f} in the median")
    lines.append(f"ratio {ratio:.1f} (peer / own)")
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
