import pytest

from gr4ad.market import AdMarket, MarketConfig


@pytest.fixture(scope="session")
def small() -> AdMarket:
    """A market of some 20,000 impressions with an extra week of ground truth."""
    return AdMarket(MarketConfig(users=300, ads=500, accounts=40, days=8, seed=3))


@pytest.fixture(scope="session")
def medium() -> AdMarket:
    """A market large enough to measure quantiles and predictability: some 140,000 impressions."""
    return AdMarket(MarketConfig(users=1000, ads=1000, accounts=100, days=15, seed=1))
