"""Samplers against diffusers' own, step by step, and against the ideal denoiser of one picture.

diffusers' tables are float32; they are cast to float64 and both sides are given the same numbers, so what is compared
is the mathematics.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm

from bottega.diffusion.ideal import IdealDenoiser
from bottega.diffusion.plan import SAMPLERS, SPACINGS, Sampling, Thresholding, spaced_timesteps
from bottega.diffusion.sampling import StepStatistics, sample, seeded_noise, threshold
from bottega.diffusion.schedule import SCHEDULES, NoiseSchedule, named_schedule
from bottega.runtime.errors import NonFiniteError, RequestError

LDM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 3, 4)
SEEDS = [11, 12]
KINDS = ["epsilon", "v_prediction", "sample"]
PAIRS = [
    (name, kind)
    for name in SCHEDULES
    for kind in (["flow_prediction", "sample"] if name == "flow" else KINDS)
    if (name, kind) != ("cosine_continuous", "epsilon")
]


def _start(seeds: list[int] = SEEDS) -> torch.Tensor:
    return seeded_noise(seeds, 0, SHAPE).double()


def _network(schedule: NoiseSchedule) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A smooth, bounded stand-in that depends on x and on t, so that a wrong timestep shows."""

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time = (t.double() / schedule.timesteps).reshape(-1, *(1,) * (x.dim() - 1))
        return torch.tanh(1.3 * x + time) + 0.2 * torch.cos(9 * time)

    return denoise


def _theirs(kind: type, prediction: str, spacing: str, **more: object) -> tuple[object, NoiseSchedule]:
    """A diffusers scheduler with its tables cast to float64, and the schedule of that very table."""
    scheduler = kind(**LDM, prediction_type=prediction, timestep_spacing=spacing, **more)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    if isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    bar = scheduler.alphas_cumprod.numpy()
    return scheduler, NoiseSchedule.from_alpha_bar("theirs", bar, prediction)


def _compare(
    scheduler, schedule: NoiseSchedule, plan: Sampling, step: Callable[..., torch.Tensor], bound: float = 1e-5
) -> None:
    """Run both from the same noise; every x on the way is compared, not only the last."""
    ours: list[torch.Tensor] = []
    network = _network(schedule)

    def recorded(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        ours.append(x)
        return network(x, t)

    final = sample(recorded, schedule, plan, _start(), SEEDS)
    assert plan.timesteps(schedule) == scheduler.timesteps.tolist()
    x = _start()
    for index, t in enumerate(scheduler.timesteps):
        assert float((ours[index] - x).abs().max()) < bound, f"before step {index + 1}"
        x = step(network(x, t.repeat(len(x))), t, x, index + 1)
    assert float((final - x).abs().max()) < bound
    assert float(x.std()) > 0.1  # a trajectory that collapsed would agree with anything


CLAMPS = [{"clip_sample": False}, {"clip_sample": True, "clip_sample_range": 0.8}, {"thresholding": True}]


def _thresholding(clamp: dict[str, object]) -> Thresholding:
    if clamp.get("thresholding"):
        return Thresholding("dynamic", 1.0, 0.6)
    return Thresholding("static", 0.8) if clamp["clip_sample"] else Thresholding()


def _dynamic(clamp: dict[str, object]) -> dict[str, object]:
    more = {"dynamic_thresholding_ratio": 0.6, "sample_max_value": 1e9} if clamp.get("thresholding") else {}
    return {**clamp, **more}


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize(("spacing", "steps"), [("leading", 7), ("leading", 50), ("trailing", 12), ("linspace", 21)])
def test_ddpm_walks_as_diffusers_does(
    monkeypatch: pytest.MonkeyPatch, prediction: str, spacing: str, steps: int, clamp: dict[str, object]
) -> None:
    scheduler, schedule = _theirs(DDPMScheduler, prediction, spacing, variance_type="fixed_small", **_dynamic(clamp))
    scheduler.set_timesteps(steps)

    def step(prediction: torch.Tensor, t: torch.Tensor, x: torch.Tensor, number: int) -> torch.Tensor:
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: seeded_noise(SEEDS, number, x))
        return scheduler.step(prediction, t, x).prev_sample

    _compare(scheduler, schedule, Sampling("ddpm", steps, spacing, thresholding=_thresholding(clamp)), step)


DDIM_WALKS = [
    *itertools.product([("leading", 10), ("trailing", 20)], [0.0, 0.4, 1.0], CLAMPS),
    *itertools.product([("linspace", 1000)], [0.0, 1.0], CLAMPS[:1]),
]


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize(("spaced", "eta", "clamp"), DDIM_WALKS)
def test_ddim_walks_as_diffusers_does(
    prediction: str, spaced: tuple[str, int], eta: float, clamp: dict[str, object]
) -> None:
    """Theirs strides by T // steps whatever the spacing, so linspace is compared where that is its stride."""
    spacing, steps = spaced
    scheduler, schedule = _theirs(DDIMScheduler, prediction, spacing, **_dynamic(clamp))
    scheduler.set_timesteps(steps)

    def step(prediction: torch.Tensor, t: torch.Tensor, x: torch.Tensor, number: int) -> torch.Tensor:
        noise = seeded_noise(SEEDS, number, x) if eta else None
        out = scheduler.step(prediction, int(t), x, eta, use_clipped_model_output=True, variance_noise=noise)
        return out.prev_sample

    _compare(scheduler, schedule, Sampling("ddim", steps, spacing, eta, _thresholding(clamp)), step)


def _solver(scheduler: DPMSolverMultistepScheduler, steps: int) -> None:
    scheduler.set_timesteps(steps)
    bar = scheduler.alphas_cumprod
    exact = ((1 - bar) / bar).sqrt()[scheduler.timesteps]
    scheduler.sigmas = torch.cat([exact, exact.new_zeros(1)])


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_dpm_solver_walks_as_diffusers_does(prediction: str, spacing: str, steps: int) -> None:
    """Theirs rounds x to float32 at every step, which ε in few steps multiplies by up to 15."""
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    scheduler, schedule = _theirs(DPMSolverMultistepScheduler, prediction, spacing, final_sigmas_type="zero", **options)
    _solver(scheduler, steps)
    _compare(
        scheduler,
        schedule,
        Sampling("dpmsolver++", steps, spacing),
        lambda prediction, t, x, _: scheduler.step(prediction, t, x).prev_sample,
    )


def test_dpm_solver_walks_the_straight_path_as_diffusers_does() -> None:
    """Theirs has a grid of its own; the schedule is built of it, and the network looks at x alone."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(9)
    sigma = scheduler.sigmas[:-1].double().flip(0).numpy()
    schedule = NoiseSchedule("theirs", 1 - sigma, sigma, (1 - sigma) ** 2, "flow_prediction")
    final = sample(lambda x, _: torch.tanh(x), schedule, Sampling("dpmsolver++", 9), _start(), SEEDS)
    x = _start()
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x), t, x).prev_sample
    assert float((final - x).abs().max()) < 1e-5


def test_ddim_on_the_straight_path_is_eulers_method() -> None:
    schedule = named_schedule("flow", 1000, "flow_prediction")
    final = sample(_network(schedule), schedule, Sampling("ddim", 25), _start(), SEEDS)
    x, times = _start(), [*Sampling("ddim", 25).timesteps(schedule), -1]
    for now, after in itertools.pairwise(times):
        velocity = _network(schedule)(x, torch.full((2,), now))
        x = x + (schedule.at(after)[1] - schedule.at(now)[1]) * velocity
    assert float((final - x).abs().max()) < 1e-12


@pytest.mark.parametrize(("name", "kind"), [("flow", "flow_prediction"), ("cosine_continuous", "v_prediction")])
def test_after_a_start_in_noise_alone_dpm_solver_has_no_slope_to_go_by(name: str, kind: str) -> None:
    """The stride in λ from α = 0 is infinite: of three steps the second is of first order too, which is DDIM."""
    schedule = named_schedule(name, 1000, kind)
    ours, ddim = (
        sample(_network(schedule), schedule, Sampling(s, 3), _start(), SEEDS) for s in ("dpmsolver++", "ddim")
    )
    assert float((ours - ddim).abs().max()) < 1e-12
    ours, ddim = (
        sample(_network(schedule), schedule, Sampling(s, 4), _start(), SEEDS) for s in ("dpmsolver++", "ddim")
    )
    assert float((ours - ddim).abs().max()) > 1e-3


def test_dpm_solver_is_of_second_order_where_ddim_is_of_first() -> None:
    """Against 1000 steps of the smooth problem of one Gaussian, whose x̂_0 is linear in x."""
    schedule = named_schedule("cosine_continuous", 1000, "sample")

    def gaussian(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = schedule.coefficients(t, x)
        return 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2)

    truth = sample(gaussian, schedule, Sampling("ddim", 1000), _start(), SEEDS)
    error = {
        name: float((sample(gaussian, schedule, Sampling(name, 20), _start(), SEEDS) - truth).abs().max())
        for name in ("ddim", "dpmsolver++")
    }
    assert error["dpmsolver++"] < 0.35 * error["ddim"]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("path_name", "kind"), PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_the_ideal_denoiser_of_one_picture_brings_it_back(name: str, path_name: str, kind: str, steps: int) -> None:
    schedule = named_schedule(path_name, 1000, kind)
    picture = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, SHAPE))
    ideal = IdealDenoiser(schedule, picture[None])
    for spacing in SPACINGS:
        if (spacing == "leading" and schedule.zero_terminal_snr) or (spacing == "linspace" and steps == 1):
            continue
        for scale in (0.0, 1.0, 30.0):  # any noise, not only a normal one
            final = sample(ideal, schedule, Sampling(name, steps, spacing), scale * _start(), SEEDS)
            assert float((final - picture).abs().max()) < 1e-5


def test_in_float32_one_picture_comes_back_too() -> None:
    picture = seeded_noise([5], 0, SHAPE)
    for name, kind, sampler in itertools.product(["cosine", "flow"], ["v_prediction", "flow_prediction"], SAMPLERS):
        if (name == "flow") != (kind == "flow_prediction"):
            continue
        schedule = named_schedule(name, 1000, kind)
        final = sample(IdealDenoiser(schedule, picture), schedule, Sampling(sampler, 20), _start().float(), SEEDS)
        assert final.dtype == torch.float32 and float((final - picture).abs().max()) < 1e-5


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spaced_timesteps_are_diffusers_for_every_number_of_steps(spacing: str) -> None:
    scheduler = DDPMScheduler(1000, timestep_spacing=spacing)
    for steps in range(2, 1001):
        scheduler.set_timesteps(steps)
        ours, theirs = spaced_timesteps(1000, steps, spacing), scheduler.timesteps.tolist()
        assert ours == theirs[:steps], steps  # arange over fractions sometimes gives them one more, timestep -1
        assert len(ours) == steps and ours[-1] >= 0 and all(a > b for a, b in itertools.pairwise(ours))


def test_after_a_clamp_the_step_points_at_the_clamped_picture() -> None:
    """One step of DDIM by hand: a network whose ε would lead to x̂_0 = 30 is clamped to 1, and ε must follow."""
    schedule = named_schedule("scaled_linear", 1000, "epsilon")
    plan = Sampling("ddim", 2, thresholding=Thresholding("static", 1.0))
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        alpha, sigma = schedule.coefficients(t, x)
        return (x - alpha * 30.0) / sigma

    final = sample(denoise, schedule, plan, _start(), SEEDS)
    first, second = plan.timesteps(schedule)
    (alpha, sigma), (alpha_next, sigma_next) = schedule.at(first), schedule.at(second)
    wanted = alpha_next * 1.0 + sigma_next * (_start() - alpha * 1.0) / sigma
    assert float((seen[1] - wanted).abs().max()) < 1e-12
    assert torch.equal(final, torch.ones_like(final))


def test_dynamic_thresholding_scales_each_picture_by_its_own_quantile() -> None:
    clean = torch.stack([torch.linspace(-high, high, 101, dtype=torch.float64) for high in (8, 1)])
    kept, share = threshold(clean, Thresholding("dynamic", 2.0, 0.9))
    assert float(kept[0].abs().max()) == pytest.approx(2.0) and torch.equal(kept[1], clean[1])
    bound = float(np.quantile(np.abs(np.linspace(-8, 8, 101)), 0.9))
    assert float((kept[0] - clean[0].clamp(-bound, bound) * 2 / bound).abs().max()) < 1e-12
    assert float(share) == pytest.approx(float((clean[0].abs() > bound).double().mean()) / 2)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("mode", ["off", "static", "dynamic"])
def test_what_is_not_finite_is_told_of_before_a_clamp_can_hide_it(bad: float, mode: str) -> None:
    schedule = named_schedule("cosine", 1000, "v_prediction")

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        if int(t[0]) < 500:
            out[1, 0, 0, 0] = bad
        return out

    with pytest.raises(NonFiniteError, match=r"step 3 of 4, timestep 499, 1 of 48 values .* absmax \d"):
        sample(denoise, schedule, Sampling("ddim", 4, thresholding=Thresholding(mode)), _start(), SEEDS)


def test_statistics_of_every_step_say_what_was_seen() -> None:
    schedule = named_schedule("scaled_linear", 1000, "epsilon")
    plan = Sampling("ddim", 5, thresholding=Thresholding("static", 1.0))
    rows: list[StepStatistics] = []
    plain = sample(lambda x, t: torch.zeros_like(x), schedule, plan, _start(), SEEDS)
    watched = sample(lambda x, t: torch.zeros_like(x), schedule, plan, _start(), SEEDS, rows.append)
    assert torch.equal(plain, watched)
    assert [(row.step, row.timestep) for row in rows] == list(enumerate(plan.timesteps(schedule), start=1))
    start, clean = _start(), _start() / schedule.at(999)[0]
    assert rows[0].x.std == pytest.approx(float(start.std(correction=0)))
    assert (rows[0].x.min, rows[0].x.max) == (float(start.min()), float(start.max()))
    assert rows[0].clean.absmax == pytest.approx(float(clean.abs().max()))  # before the clamp
    assert rows[0].clean.mean == pytest.approx(float(clean.mean()))
    assert rows[0].clamped == pytest.approx(float((clean.abs() > 1).double().mean()))


@pytest.mark.parametrize("plan", [Sampling("ddpm", 6), Sampling("ddim", 6, eta=0.5), Sampling("dpmsolver++", 6)])
def test_a_picture_is_its_seeds_own_whatever_it_is_drawn_with(plan: Sampling) -> None:
    schedule = named_schedule("cosine", 1000, "v_prediction")
    many = [3, 4, 5, 6]
    dynamic = Sampling(plan.sampler, plan.steps, eta=plan.eta, thresholding=Thresholding("dynamic", 0.5))
    for one in (plan, dynamic):
        together = sample(_network(schedule), schedule, one, _start(many), many)
        assert torch.equal(together, sample(_network(schedule), schedule, one, _start(many), many))
        assert not torch.equal(together[0], together[1])
        for index in (2, 0):
            alone = sample(_network(schedule), schedule, one, _start([many[index]]), [many[index]])
            assert torch.equal(alone[0], together[index])


def test_noise_of_another_step_or_seed_is_other_noise() -> None:
    pictures = [seeded_noise([seed], step, SHAPE) for seed, step in ((1, 0), (1, 1), (2, 0), (2, 1))]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(pictures, 2))
    many = seeded_noise(range(400), 3, (4, 8, 8))
    assert abs(float(many.mean())) < 0.02 and float(many.std()) == pytest.approx(1.0, abs=0.01)


def test_a_sampler_with_a_name_but_no_step_is_refused_instead_of_drawing_by_ddim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bottega.diffusion.plan.SAMPLERS", ("ddpm", "ddim", "dpmsolver++", "euler"))
    schedule = named_schedule("flow", 1000, "sample")
    start = seeded_noise([0], 0, SHAPE)
    with pytest.raises(RequestError, match="'euler' has a name but no step"):
        sample(lambda x, t: x, schedule, Sampling("euler", 4), start, [0])


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Sampling("euler", 10), "euler"),
        (lambda: Sampling("ddim", 10, eta=1.5), "eta"),
        (lambda: Sampling("ddpm", 10, eta=0.5), "eta belongs to ddim"),
        (lambda: Thresholding("clip"), "clip"),
        (lambda: Thresholding("static", float("nan")), "measure it"),
        (lambda: Thresholding("dynamic", 1.0, 0.0), "quantile"),
        (lambda: spaced_timesteps(1000, 1001, "trailing"), "1 … 1000"),
        (lambda: spaced_timesteps(1000, 0, "leading"), "received 0"),
        (lambda: spaced_timesteps(1000, 1, "linspace"), "trailing"),
        (lambda: spaced_timesteps(1000, 10, "karras"), "karras"),
        (lambda: Sampling("ddim", 10, "leading").timesteps(named_schedule("flow", 1000, "sample")), "pure noise"),
        (lambda: Sampling("dpmsolver++", 1000, "linspace").timesteps(named_schedule("cosine", 1000, "sample")), "999"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(make: Callable[[], object], rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        make()


def test_a_seed_too_few_is_refused() -> None:
    schedule = named_schedule("cosine", 1000, "sample")
    with pytest.raises(RequestError, match="2 pictures and 1 seeds"):
        sample(_network(schedule), schedule, Sampling("ddim", 2), _start(), [1])
