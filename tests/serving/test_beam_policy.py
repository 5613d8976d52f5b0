"""The beam policy against a queue simulated in virtual time: no engine, no clock."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.serving.beam_policy import BeamPolicy, Load, level_widths
from gr4ad.serving.latency_model import LatencyModel

BASE = (32, 64, 128)
FIXED, PER_REQUEST, PER_ROW = 0.004, 0.0005, 0.00004  # seconds
CAPACITY = 16 / (FIXED + 16 * (PER_REQUEST + PER_ROW * sum(BASE)))  # requests a second at base widths, full batches


def batch_seconds(requests: int, widths: tuple[int, ...]) -> float:
    return FIXED + requests * (PER_REQUEST + PER_ROW * sum(widths))


def simulate(policy: BeamPolicy, arrivals: np.ndarray, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Latency of each request and the time of each decision with its scale, in virtual seconds."""
    latencies, decisions = np.zeros(len(arrivals)), []
    now, head, told = 0.0, 0, 0
    while head < len(arrivals):
        now = max(now, arrivals[head])
        joined = int(np.searchsorted(arrivals, now, side="right"))
        for moment in arrivals[told:joined]:
            policy.arrived(moment)
        told = joined
        widths = policy.widths(Load(now=now, waiting=joined - head, oldest_wait=now - arrivals[head]))
        size = min(joined - head, policy.max_batch)
        seconds = batch_seconds(size, widths) * noise.lognormal(0.0, 0.05)
        now += seconds
        policy.finished(size, size * sum(widths), 20 * size, seconds)
        latencies[head : head + size] = now - arrivals[head : head + size]
        decisions.append((now, policy.scale))
        head += size
    return latencies, np.array(decisions)


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    return np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))


def test_presets():
    assert level_widths("progressive", 512, 3) == [128, 256, 512]
    assert level_widths("equal", 512, 3) == [512, 512, 512]
    assert level_widths("progressive", 1, 3) == [1, 1, 1]
    with pytest.raises(ValueError, match="equal, progressive. Received: 'wide'"):
        level_widths("wide", 8, 3)
    with pytest.raises(ValueError, match="at least 1. Received: 0 and 3"):
        level_widths("equal", 0, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_widths", []),
        ("base_widths", [4, 0, 4]),
        ("slo", 0.0),
        ("slo", math.nan),
        ("min_scale", 0.0),
        ("max_scale", 0.9),
        ("max_scale", 3.0),
        ("max_batch", 0),
        ("max_utilization", 1.5),
        ("patience", -1.0),
        ("rate_window", 0.0),
    ],
)
def test_arguments_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}`.* Received: "):
        BeamPolicy(**{"base_widths": [4, 4, 4], field: value})


def test_without_an_objective_the_widths_are_constant():
    policy = BeamPolicy(BASE)
    latencies, decisions = simulate(
        policy, poisson(3 * CAPACITY, 5, np.random.default_rng(0)), np.random.default_rng(1)
    )
    assert set(decisions[:, 1]) == {1.0}
    assert latencies.max() > 1  # and the queue grows


@pytest.mark.parametrize(
    ("load", "narrow", "wide"),
    [(0.3, 1.5, 1.6), (0.5, 1.1, 1.4), (0.8, 0.7, 0.95), (1.0, 0.6, 0.72), (1.3, 0.44, 0.5), (1.6, 0.35, 0.38)],
)
def test_the_objective_holds_at_every_load_that_narrow_beams_can_carry(load, narrow, wide):
    """With beams about as wide as the load allows: `narrow` to `wide` times the base widths on average."""
    slo = 0.15
    policy = BeamPolicy(BASE, slo=slo)
    arrivals = poisson(load * CAPACITY, 60, np.random.default_rng(int(10 * load)))
    latencies, decisions = simulate(policy, arrivals, np.random.default_rng(1))
    settled = arrivals > 5  # the policy has learned what a batch costs
    assert np.quantile(latencies[settled], 0.99) <= slo
    late = decisions[decisions[:, 0] > 10, 1]
    assert narrow <= late.mean() <= wide
    busy = [  # share of the time that the server works at each scale, in full batches
        load * CAPACITY * batch_seconds(16, policy.scaled(scale)) / 16 for scale in policy.scales
    ]
    assert late.mean() <= max(scale for scale, share in zip(policy.scales, busy, strict=True) if share <= 0.85)


def test_beams_narrow_in_a_burst_and_recover_one_step_at_a_time():
    rng = np.random.default_rng(3)
    quiet, burst = 0.3 * CAPACITY, 1.5 * CAPACITY
    arrivals = np.concatenate([poisson(quiet, 20, rng), 20 + poisson(burst, 10, rng), 30 + poisson(quiet, 30, rng)])
    policy = BeamPolicy(BASE, slo=0.15)
    _, decisions = simulate(policy, np.sort(arrivals), rng)
    time, scale = decisions.T
    assert scale[(time > 15) & (time < 20)].min() > 1
    in_burst = scale[(time > 22) & (time < 30)]
    assert in_burst.max() < 1
    assert scale[time > 50].min() > 1
    places = [policy.scales.index(value) for value in scale]
    widened = [later - earlier for earlier, later in zip(places, places[1:], strict=False) if later > earlier]
    assert set(widened) == {1}


def test_a_wider_scale_must_hold_for_the_whole_patience():
    policy = BeamPolicy(BASE, slo=1.0, patience=2.0)
    for size in range(1, 17):
        policy.finished(size, size * sum(BASE), 0, batch_seconds(size, BASE))
    assert policy.widths(Load(now=0.0, waiting=1)) == BASE
    assert policy.widths(Load(now=1.9, waiting=1)) == BASE
    assert policy.widths(Load(now=2.0, waiting=1)) == policy.scaled(1.2) == (38, 77, 154)
    assert policy.widths(Load(now=3.9, waiting=1)) == policy.scaled(1.2)
    assert policy.widths(Load(now=4.0, waiting=1)) == policy.scaled(1.4)
    policy.widths(Load(now=4.1, waiting=10_000))
    assert policy.scale == 0.25  # at once
    assert policy.widths(Load(now=4.2, waiting=1)) == policy.scaled(0.25)


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0, 0.2), st.integers(1, 16))
@settings(deadline=None, max_examples=50)
def test_more_load_is_never_met_with_wider_beams(fewer, more, wait, batch):
    fewer, more = sorted((fewer, more))
    scales = []
    for waiting in (fewer, more):
        policy = BeamPolicy(BASE, slo=0.15, max_batch=batch, patience=0.0)
        for size in range(1, 17):
            policy.finished(size, size * sum(BASE), 0, batch_seconds(size, BASE))
        for now in range(20):
            widths = policy.widths(Load(now=float(now), waiting=waiting, oldest_wait=wait))
        assert min(widths) >= 1
        assert policy.scales[0] <= policy.scale <= policy.scales[-1]
        scales.append(policy.scale)
    assert scales[1] <= scales[0]


def test_admission_looks_at_the_deadline_of_the_narrowest_beams():
    policy = BeamPolicy(BASE, slo=0.15)
    assert policy.admits(Load(now=0.0, waiting=10**6), deadline=0.001)  # nothing is known yet
    assert policy.backlog(Load(now=0.0, waiting=10)) == 0
    for size in range(1, 17):
        widths = policy.scaled(policy.scales[size % len(policy.scales)])
        policy.finished(size, size * sum(widths), 0, batch_seconds(size, widths))
    narrow = batch_seconds(16, policy.scaled(policy.scales[0]))
    backlog = policy.backlog(Load(now=0.0, waiting=159))
    assert backlog == pytest.approx(10 * narrow, rel=0.02)
    assert policy.admits(Load(now=0.0, waiting=159), deadline=1.05 * backlog)
    assert not policy.admits(Load(now=0.0, waiting=159), deadline=0.95 * backlog)


def test_the_latency_model_recovers_what_batches_cost():
    rng = np.random.default_rng(0)
    model = LatencyModel()
    with pytest.raises(RuntimeError, match="0 batches were observed, 8 are needed"):
        model.seconds(1, 1, 1)
    for _ in range(200):
        requests, width, items = rng.integers(1, 17), rng.integers(50, 400), rng.integers(1, 100)
        rows, context = int(requests * width), int(requests * items)
        model.observe(requests, rows, context, 0.004 + 0.0005 * requests + 0.00004 * rows + 0.00001 * context)
    np.testing.assert_allclose(model.coefficients, [0.00004, 0.00001, 0.0005, 0.004], rtol=0.1)
    assert model.seconds(4, 800, 100) == pytest.approx(0.039, rel=0.02)
    with pytest.raises(ValueError, match="`min_batches` must be in 1..window = 4. Received: 5"):
        LatencyModel(window=4, min_batches=5)


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 2000), st.floats(1e-6, 10)), min_size=8, max_size=40))
@settings(deadline=None, max_examples=50)
def test_predictions_are_finite_and_grow_with_the_batch(batches):
    model = LatencyModel()
    for requests, rows, seconds in batches:
        model.observe(requests, rows, 10 * requests, seconds)
    small, large = model.seconds(1, 10, 10), model.seconds(16, 4000, 160)
    assert 0 <= small <= large < math.inf
