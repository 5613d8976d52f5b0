"""A seeded simulator of an advertising market: the embedded data source, and the ground truth of simulated A/B
tests."""

from .config import MarketConfig
from .market import AdMarket, Replay
from .simulation import AuctionLog

__all__ = ["AdMarket", "AuctionLog", "MarketConfig", "Replay"]
