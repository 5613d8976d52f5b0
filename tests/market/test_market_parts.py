"""The parts of the market, each against its definition."""

import numpy as np
import pytest

from gr4ad.market import draws, ipinyou
from gr4ad.market.ads import CATEGORIES, DIMENSION, make_ads
from gr4ad.market.auction import MOST_LIKELY
from gr4ad.market.calibration import calibrate
from gr4ad.market.retrieval import Retrieval
from gr4ad.market.users import make_users


def test_ads_that_share_words_share_vectors(small):
    ads = make_ads(small.config, np.random.SeedSequence(small.config.seed).spawn(4)[0])
    np.testing.assert_array_equal(ads.vectors, small.rules.ads.vectors)
    assert ads.vectors.shape == (500, DIMENSION) and ads.category_vectors.shape == (len(CATEGORIES), DIMENSION)
    assert set(ads.account) == set(range(40)), "each account has an ad"
    distance = np.linalg.norm(ads.vectors - ads.category_vectors[ads.category], axis=1)
    other = np.linalg.norm(ads.vectors - ads.category_vectors[np.roll(ads.category, 1)], axis=1)
    assert distance.mean() < 0.6 * other.mean()


def test_users_have_interests_of_weight_one_each_day(small):
    seeds = np.random.SeedSequence(small.config.seed).spawn(4)
    users = make_users(small.config, small.rules.ads.category_vectors, seeds[1])
    np.testing.assert_array_equal(users.slot_category, small.rules.users.slot_category)
    np.testing.assert_allclose(users.slot_weight.sum(axis=2), 1, rtol=1e-5)
    assert users.slot_category.shape == (8 + 7, 300, small.config.interests)


def test_the_state_of_a_user_is_lasting_interests_and_the_intent_of_the_session(small):
    users, config = small.rules.users, small.config
    who, time = np.array([3, 8]), config.start_time + np.array([50_000, 200_000])
    intent = users.intent(who, time)
    for row, (user, moment) in enumerate(zip(who, time, strict=True)):
        day, window = divmod(moment - config.start_time, 86_400)[0], (moment - config.start_time) // 7200
        draw = draws.uniform(config.seed, draws.INTENT, ([user], [window])).item()
        weights = np.cumsum(users.slot_weight[day, user])[:-1]
        assert intent[row] == users.slot_category[day, user][int((draw > weights).sum())]
        lasting = users.slot_weight[day, user] @ users.category_vectors[users.slot_category[day, user]]
        wanted = 0.5 * lasting + 0.5 * users.category_vectors[intent[row]] + users.taste[user]
        np.testing.assert_allclose(users.vectors(who, time)[row], wanted, rtol=1e-4)


def test_rules_against_their_formulas(small):
    rules, users = small.rules, np.array([0, 5])
    ads = np.array([[1, 2, 3], [4, 5, 6]])
    vectors = rules.users.vectors(users, np.full(2, small.config.start_time))
    utility = rules.utility(vectors, ads)
    for row, column in np.ndindex(ads.shape):
        ad = ads[row, column]
        assert utility[row, column] == pytest.approx(
            float(vectors[row] @ rules.ads.vectors[ad] + rules.ads.quality[ad]), rel=1e-4
        )
    ctr, cvr = rules.ctr(utility), rules.cvr(users, ads)
    np.testing.assert_allclose(ctr, np.minimum(np.exp(rules.level + rules.slope * utility), MOST_LIKELY), rtol=1e-5)
    assert (cvr <= MOST_LIKELY).all() and rules.ctr(np.array([99.0])) == MOST_LIKELY
    worth = rules.log_worth(ctr, cvr, ads)
    bids = np.exp(rules.bid_level + rules.ads.log_bid[ads])
    np.testing.assert_allclose(np.exp(worth), 1000 * ctr * cvr * bids, rtol=1e-4)
    assert (np.diff(rules.cpm(np.linspace(-5, 15, 50))) >= 0).all() and rules.cpm(np.array([-np.inf])) == 0
    response = rules.response(users, np.full(2, small.config.start_time), ads)
    for got, wanted in zip(response, (ctr, cvr, rules.cpm(worth)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_retrieval_draws_ads_that_have_entered_and_prefers_interests(small):
    retrieval = Retrieval(small.config, small.rules.ads, small.rules.users)
    retrieval.refresh(2, np.zeros(small.config.ads))
    who = np.arange(200)
    candidates, first = retrieval.draw(
        who, np.full(200, small.config.start_time + 2 * 86_400), np.random.default_rng(0)
    )
    assert candidates.shape == first.shape == (200, small.config.candidates)
    assert (small.rules.ads.entry_day[candidates] <= 2).all()
    for row in range(200):
        assert first[row].sum() == len(set(candidates[row]))
    interests = small.rules.users.slot_category[1, who]
    hits = (small.rules.ads.category[candidates][:, :, None] == interests[:, None, :]).any(axis=2)
    uniform = small.config.interests / len(CATEGORIES)
    assert hits.mean() > 3 * uniform


def test_popular_ads_are_drawn_more_often(small):
    clicks = np.zeros(small.config.ads)
    clicks[:20] = 10_000
    shares = []
    for counts in (np.zeros_like(clicks), clicks):
        retrieval = Retrieval(small.config, small.rules.ads, small.rules.users)
        retrieval.refresh(small.config.days - 1, counts)
        time = np.full(200, small.config.start_time)
        candidates, _ = retrieval.draw(np.arange(200), time, np.random.default_rng(1))
        shares.append((candidates < 20).mean())
    assert shares[1] > 3 * shares[0]


def test_calibration_meets_the_mean_click_rate_and_prices(small):
    seeds = np.random.SeedSequence(small.config.seed).spawn(4)
    calibration = calibrate(small.config, small.rules.ads, small.rules.users, np.random.default_rng(seeds[2]))
    assert calibration.rules.level == small.rules.level and calibration.rules.slope == small.rules.slope
    np.testing.assert_array_equal(calibration.daily_budget, small.budgets().daily)
    assert ((calibration.participation >= 0.01) & (calibration.participation <= 1)).all()
    knots = np.exp(calibration.rules.log_cpm_knots[1:-1])
    np.testing.assert_allclose(knots, ipinyou.PRICE_QUANTILES)
    assert small.statistics()["ctr"] == pytest.approx(small.config.ctr_mean, rel=0.1)
