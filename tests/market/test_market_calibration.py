import numpy as np
import pytest

from gr4ad.market import AdMarket, MarketConfig, ipinyou

PRICE_TOLERANCE = 0.25  # relative, at every decile of the market price
SPREAD_TOLERANCE = 0.2  # relative, of q90/q50 and q50/q10 of pCTR


def _check(market: AdMarket) -> None:
    log = market.auctions
    shown = log.ad >= 0
    deciles = slice(2, 11)
    prices = np.quantile(log.price[shown], ipinyou.LEVELS[deciles])
    np.testing.assert_allclose(prices, ipinyou.PRICE_QUANTILES[deciles], rtol=PRICE_TOLERANCE)
    low, middle, high = np.quantile(log.pctr[shown], [0.1, 0.5, 0.9])
    assert high / middle == pytest.approx(ipinyou.PCTR_UPPER, rel=SPREAD_TOLERANCE)
    assert middle / low == pytest.approx(ipinyou.PCTR_LOWER, rel=SPREAD_TOLERANCE)
    clicks = log.clicked.sum()
    expected = market.config.ctr_mean * shown.sum()
    assert clicks == pytest.approx(expected, rel=0.1, abs=4 * np.sqrt(expected))
    if clicks > 2000:
        assert log.converted.sum() / clicks == pytest.approx(market.config.cvr_mean, rel=0.2)


def test_reference_numbers():
    assert ipinyou.PRICE_QUANTILES[6] == pytest.approx((53 + 69 + 66) / 3)
    assert (ipinyou.PCTR_UPPER, ipinyou.PCTR_LOWER) == (pytest.approx(2.93, abs=0.01), pytest.approx(2.96, abs=0.01))


def test_default_rate(medium):
    _check(medium)


@pytest.mark.parametrize("ctr_mean", [0.03, ipinyou.BANNER_CTR])
def test_other_rates(ctr_mean):
    _check(AdMarket(MarketConfig(users=600, ads=800, accounts=80, days=10, ctr_mean=ctr_mean, seed=2)))


def test_production_estimates_are_calibrated_on_all_candidates(small):
    # Winners are over-estimated (the winner's curse), but not beyond the noise of the estimates.
    log = small.auctions
    times = np.repeat(log.time, log.ad.shape[1]).reshape(log.ad.shape)[:, 0]
    ctr, _, _ = small.rules.response(log.user, times, np.maximum(log.ad, 0))
    ratio = (log.pctr / ctr)[log.ad >= 0]
    assert 1.0 < ratio.mean() < np.exp(small.config.estimate_noise)
    assert np.log(ratio).std() == pytest.approx(small.config.estimate_noise, rel=0.15)
