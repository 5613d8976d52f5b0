import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad.market import AdMarket, MarketConfig, draws
from gr4ad.market.auction import examination, second_prices
from gr4ad.market.simulation import DIURNAL, Budgets, behave, charge, draw_requests

MONEY = st.floats(0, 100, allow_subnormal=False)


@given(st.lists(MONEY, min_size=1, max_size=8), st.floats(0, 50), st.integers(1, 8))
def test_second_prices_against_the_definition(bids, reserve, positions):
    prices = second_prices(np.array([bids]), reserve, positions)[0]
    assert len(prices) == min(len(bids), positions)
    for position, price in enumerate(prices):
        own = bids[position]
        behind = bids[position + 1] if position + 1 < len(bids) else 0.0
        assert price == (min(own, max(behind, reserve)) if own > 0 and own >= reserve else 0.0)


@given(st.lists(st.tuples(MONEY, st.integers(0, 3)), max_size=30), st.lists(MONEY, min_size=4, max_size=4))
def test_charge_against_a_loop(asked, budgets):
    amounts, accounts = np.array([a for a, _ in asked]), np.array([b for _, b in asked], dtype=int)
    left, expected = list(budgets), []
    for amount, account in asked:
        expected.append(min(amount, left[account]))
        left[account] -= expected[-1]
    np.testing.assert_allclose(charge(amounts, accounts, np.array(budgets)), expected, atol=1e-9)


def test_participation_follows_the_plan_and_ends_with_the_budget():
    budgets = Budgets(np.array([10.0, 10.0, 10.0]), np.array([100.0, 100.0, 12.0]), np.array([0.5, 0.5, 1.0]))
    charged = budgets.spend(np.array([5.5, 8.0, 8.0]), np.array([1, 2, 2]))
    np.testing.assert_allclose(charged, [5.5, 8.0, 2.0])
    budgets.pace(0.5)
    np.testing.assert_allclose(budgets.participation, [0.55, 0.45, 0.0])
    budgets.new_day()
    np.testing.assert_allclose(budgets.day_left, [10.0, 10.0, 2.0])
    np.testing.assert_allclose(budgets.participation, [0.55, 0.45, 0.9])


def test_a_click_never_costs_more_than_the_winner_bid(small):
    log = small.auctions
    shown = log.ad >= 0
    assert (log.price[shown] <= log.cpm[shown]).all()
    assert (log.price[shown] >= np.float32(small.config.reserve_cpm)).all()
    assert (log.click_price[shown] <= log.cpm[shown] / (1000 * log.pctr[shown]) * (1 + 1e-5)).all()
    assert (log.charged <= log.click_price * (1 + 1e-6)).all()
    assert (log.charged[~log.clicked] == 0).all()
    # The CPM bid itself never exceeds what the impressions are worth to the advertiser.
    rules = small.rules
    worth = np.linspace(rules.log_worth_knots[0], rules.log_worth_knots[-1], 5000)
    assert (np.log(rules.cpm(worth)) <= worth + 1e-9).all()


def test_lists_are_ranked_by_bid_and_priced_by_the_next(small):
    log = small.auctions
    assert (np.diff(log.cpm, axis=1) <= 0).all()
    following = log.ad[:, 1:] >= 0
    expected = np.maximum(log.cpm[:, 1:], np.float32(small.config.reserve_cpm))
    np.testing.assert_allclose(log.price[:, :-1][following], expected[following], rtol=1e-6)


def test_budgets_hold_each_day_and_in_total():
    market = AdMarket(
        MarketConfig(users=300, ads=300, accounts=30, days=6, budget_factor=0.4, leaving_accounts=0.5, seed=5)
    )
    log, budgets = market.auctions, market.budgets()
    row, position = np.nonzero(log.clicked)
    account = market.rules.ads.account[log.ad[row, position]]
    day = (log.time[row] - market.config.start_time) // 86_400
    spent = np.zeros((6, market.config.accounts))
    np.add.at(spent, (day, account), log.charged[row, position].astype(float))
    # `charged` is stored in float32; the charging itself has no tolerance.
    assert (spent <= budgets.daily * (1 + 1e-5)).all()
    assert (spent.sum(axis=0) <= budgets.total_left * (1 + 1e-5)).all()
    assert (spent.max(axis=0) > 0.99 * budgets.daily).any()
    assert (spent.sum(axis=0) > 0.99 * budgets.total_left).any()
    assert market.statistics()["written_off"] > 0


def test_draws_are_uniform_and_depend_on_every_key():
    rows, columns = np.arange(300)[:, None], np.arange(300)[None, :]
    values = draws.uniform(1, draws.CLICK, (rows, columns))
    assert values.min() >= 0 and values.max() < 1
    assert len(np.unique(values)) == values.size
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 4500) ** 2 / 4500).sum() < 45  # chi-square, 19 degrees of freedom, p about 0.0007
    for other in (
        draws.uniform(2, draws.CLICK, (rows, columns)),
        draws.uniform(1, draws.DEPTH, (rows, columns)),
        values.T,
    ):
        off_diagonal = ~np.eye(300, dtype=bool)
        assert abs(np.corrcoef(values[off_diagonal], other[off_diagonal])[0, 1]) < 0.015


def test_examination_falls_from_one_as_a_power():
    config = MarketConfig(examination_decay=0.5)
    np.testing.assert_allclose(examination(config, 4), [1, 2**-0.5, 3**-0.5, 0.5])


def test_requests_lie_within_the_log_and_follow_the_activity():
    config = MarketConfig(users=4000, days=10)
    activity = np.repeat([0.5, 4.0], 2000)
    user, time = draw_requests(config, activity, np.random.default_rng(0))
    assert (np.diff(time) >= 0).all() and config.start_time <= time.min() and time.max() < config.end_time
    counts = np.bincount(user, minlength=4000)
    # Five standard errors of a compound Poisson number with geometric sessions of 2.5 requests; a session that crosses
    # the end of the log loses its rest.
    assert counts[:2000].mean() / 10 == pytest.approx(0.5, rel=0.1)
    assert counts[2000:].mean() / 10 == pytest.approx(4.0, rel=0.04)
    hours = np.bincount((time - config.start_time) // 3600 % 24, minlength=24)
    assert np.corrcoef(hours, DIURNAL)[0, 1] > 0.95


def test_behaviour_against_a_loop():
    config = MarketConfig(seed=9)
    rng = np.random.default_rng(0)
    request, ads = np.arange(50), rng.integers(-1, 20, size=(50, 6))
    ctr, cvr = rng.random((50, 6)), rng.random((50, 6))
    clicked, converted = behave(config, request, ads, ctr, cvr)
    for row, position in np.ndindex(ads.shape):
        ad = ads[row, position]
        draw = {
            stream: draws.uniform(9, stream, keys).item()
            for stream, keys in (
                (draws.DEPTH, ([row],)),
                (draws.CLICK, ([row], [max(ad, 0)])),
                (draws.CONVERSION, ([row], [max(ad, 0)])),
            )
        }
        seen = draw[draws.DEPTH] < (position + 1) ** -config.examination_decay
        click = ad >= 0 and seen and draw[draws.CLICK] < ctr[row, position]
        assert clicked[row, position] == click
        assert converted[row, position] == (click and draw[draws.CONVERSION] < cvr[row, position])
