# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What `/metrics` shows of recommendations, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)  # requests


class ServerMetrics:
    """Prometheus metrics of one server; where several processes share a registry, counts are summed and gauges are
    those of the last to set them.

    Args:
        registry: Which holds them; default: one of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = CollectorRegistry() if registry is None else registry
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="mostrecent")
        self.requests = counter(
            "gr4ad_requests", "Requests to /v1/recommend by HTTP status; 499: the client left.", ["status"]
        )
        self.latency = Histogram(
            "gr4ad_request_latency_seconds",
            "From the head of a request to the end of its response.",
            registry=registry,
            buckets=LATENCY_BUCKETS,
        )
        self.users = Histogram("gr4ad_request_users", "Users of one body.", registry=registry, buckets=BATCH_BUCKETS)
        self.beam_rows = counter("gr4ad_beam_rows", "Beam rows that answers took: all widths of all users, summed.")
        self.beam_width = gauge("gr4ad_beam_width", "Beam width of the last answer, by level.", ["level"])
        self.cache_lookups = counter("gr4ad_cache_lookups", "Requests looked up in the result cache.", ["result"])
        self.model_version = gauge("gr4ad_model_version", "Version of the weights served.")
        self.index_changes = gauge("gr4ad_index_changes", "Number of the last change of the ads that was applied.")
        self.reload_failures = counter("gr4ad_reload_failures", "Weights or changes that could not be taken.")

    def answered(self, widths: Sequence[int]) -> None:
        """Takes note of an answer that beams of these widths gave."""
        self.beam_rows.inc(sum(widths))
        for level, width in enumerate(widths, start=1):
            self.beam_width.labels(str(level)).set(width)
