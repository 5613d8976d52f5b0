"""Serving: a recommender object and its HTTP server."""

from .recommender import Recommendation, Recommender, UnknownItemError

__all__ = ["Recommendation", "Recommender", "UnknownItemError"]
