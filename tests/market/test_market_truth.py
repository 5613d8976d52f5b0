from itertools import permutations

import numpy as np
import pytest

from gr4ad.market import AdMarket
from gr4ad.market.auction import examination


@pytest.fixture(scope="module")
def asked(small):
    """Users (40,), random lists (40, 6) of ads there from the start, times (40,)."""
    rng = np.random.default_rng(0)
    users = small.rules.users.user_ids[rng.choice(300, size=40, replace=False)]
    there = small.rules.ads.item_ids[small.rules.ads.entry_day == 0]
    lists = np.array([rng.choice(there, size=6, replace=False) for _ in users], dtype=object)
    return users, lists, small.config.start_time + rng.integers(0, 15 * 86_400, size=40)


def test_expected_revenue_against_the_definition(small, asked):
    users, lists, times = asked
    revenue = small.expected_revenue(users, lists, times)
    rules, who = small.rules, np.array([int(name[5:]) for name in users])
    catalog = rules.ads
    for row in range(len(users)):
        ads = np.array([[int(name[3:]) for name in lists[row]]])
        vector = rules.users.vectors(who[row : row + 1], times[row : row + 1])[0]
        ctr = np.exp(rules.level + rules.slope * (catalog.vectors[ads[0]] @ vector + catalog.quality[ads[0]]))
        cvr = np.exp(rules.cvr_level + catalog.log_cvr[ads[0]] + rules.users.spending[who[row]])
        ctr, cvr = np.minimum(ctr, 0.9), np.minimum(cvr, 0.9)
        bid = np.exp(rules.bid_level + catalog.log_bid[ads[0]])
        cpm = rules.cpm(np.log(1000 * ctr * cvr * bid))
        total = 0.0
        for position in range(6):
            behind = cpm[position + 1] if position < 5 else 0.0
            if cpm[position] >= small.config.reserve_cpm:
                price_of_click = min(cpm[position], max(behind, small.config.reserve_cpm)) / (1000 * ctr[position])
                total += (position + 1) ** -small.config.examination_decay * ctr[position] * price_of_click
        assert revenue[row] == pytest.approx(total, rel=1e-3)


def test_replay_means_meet_expected_revenue(small, asked):
    users, lists, times = (np.repeat(values, 3000, axis=0) for values in asked)
    outcome = small.replay(users, lists, times, np.arange(len(users)))
    samples = outcome.revenue.reshape(40, 3000)
    error = samples.std(axis=1, ddof=1) / np.sqrt(3000)
    deviation = (samples.mean(axis=1) - small.expected_revenue(*asked)) / error
    assert np.abs(deviation).max() < 4.5
    assert abs(deviation.mean()) < 4 / np.sqrt(40)
    assert (outcome.clicked | ~outcome.converted).all()


def test_replay_uses_common_random_numbers(small, asked):
    users, lists, times = asked
    numbers = np.arange(40)
    first = small.replay(users, lists, times, numbers)
    again = small.replay(users, lists, times, numbers)
    assert (first.clicked == again.clicked).all() and (first.revenue == again.revenue).all()
    other = lists.copy()
    other[:, 5] = ""
    shorter = small.replay(users, other, times, numbers)
    assert (shorter.clicked[:, :5] == first.clicked[:, :5]).all()
    assert not shorter.clicked[:, 5].any()


def test_replaying_the_log_reproduces_its_behaviour(small):
    log = small.auctions
    names = np.append(small.rules.ads.item_ids, "")[log.ad]
    outcome = AdMarket(small.config).replay(
        small.rules.users.user_ids[log.user], names, log.time, np.arange(len(log.user))
    )
    # Equal up to float32 rounding of a probability beside its draw.
    assert (outcome.clicked != log.clicked).sum() <= 1
    assert (outcome.converted != log.converted).sum() <= 1


def test_oracle_list_is_the_best_of_all_orders(small):
    user, time = ["user_000007"], small.config.start_time + 40_000
    best = small.oracle_list(user, time, k=7)[0]
    orders = np.array(list(permutations(best, 5)), dtype=object)
    revenue = small.expected_revenue(user * len(orders), orders, time)
    top = small.expected_revenue(user, best[None, :5], time)[0]
    assert top == pytest.approx(revenue.max(), rel=1e-6)


def test_oracle_list_beats_the_production_lists(small):
    log, rows = small.auctions, np.arange(0, 2000, 10)
    names = np.append(small.rules.ads.item_ids, "")[log.ad[rows]]
    users = small.rules.users.user_ids[log.user[rows]]
    production = small.expected_revenue(users, names, log.time[rows])
    oracle = small.expected_revenue(users, small.oracle_list(users, log.time[rows], k=6), log.time[rows])
    assert (oracle >= production - 1e-9).all()
    assert oracle.mean() > 1.2 * production.mean()


def test_a_further_entry_prices_the_last_position(small):
    user, time = ["user_000001"], small.config.start_time
    best = small.oracle_list(user, time, k=7)
    gain = small.expected_revenue(user, best, time) - small.expected_revenue(user, best[:, :6], time)
    _, _, cpm = small.rules.response(np.array([1]), np.array([time]), np.array([[int(best[0, 6][3:])]]))
    assert gain[0] == pytest.approx(
        examination(small.config, 6)[5] * (cpm[0, 0] - small.config.reserve_cpm) / 1000, rel=1e-4
    )


def test_repeated_and_absent_ads_earn_nothing(small):
    user, time = ["user_000001"], small.config.start_time
    best = list(small.oracle_list(user, time, k=3)[0])
    late = small.rules.ads.item_ids[small.rules.ads.entry_day > 0][0]
    with_gap = small.expected_revenue(user, [[best[0], "", best[1]]], time)
    assert small.expected_revenue(user, [[best[0], best[0], best[1]]], time) == with_gap
    assert small.expected_revenue(user, [[best[0], late, best[1]]], time) == with_gap
    assert small.expected_revenue(user, [["", "", ""]], time)[0] == 0.0


def test_state_does_not_depend_on_the_simulation(small):
    fresh = AdMarket(small.config)
    users, time = np.arange(300), np.full(300, small.config.start_time + 12 * 86_400)
    assert (fresh.rules.users.vectors(users, time) == small.rules.users.vectors(users, time)).all()
    moved = small.rules.users.slot_weight[0] - small.rules.users.slot_weight[-1]
    assert 0.02 < np.abs(moved).mean() < 0.3


def test_errors_name_the_remedy(small):
    start = small.config.start_time
    with pytest.raises(ValueError, match="`user_ids`.*'nobody'"):
        small.expected_revenue(["nobody"], [["ad_00001"]], start)
    with pytest.raises(ValueError, match="`lists`.*'ad_x'"):
        small.expected_revenue(["user_000000"], [["ad_x"]], start)
    with pytest.raises(ValueError, match="Pad shorter lists"):
        small.expected_revenue(["user_000000", "user_000001"], [["ad_00001"], ["ad_00001", "ad_00002"]], start)
    with pytest.raises(ValueError, match="one list per user"):
        small.expected_revenue(["user_000000", "user_000001"], [["ad_00001"]], start)
    with pytest.raises(ValueError, match="horizon_days"):
        small.expected_revenue(["user_000000"], [["ad_00001"]], start + 15 * 86_400)
    with pytest.raises(ValueError, match="`requests`"):
        small.replay(["user_000000"], [["ad_00001"]], start, np.array([-1]))
    with pytest.raises(ValueError, match="`k`"):
        small.oracle_list(["user_000000"], start, k=501)
