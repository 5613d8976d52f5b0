# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""From checked requests to responses: defaults, cache, the micro-batch queue with its beam policy, errors."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

from .beam_policy import Load
from .http_middleware import ServerMetrics
from .http_schema import ErrorResponse, FailedRequest, RecommendedItem, RecommendRequest, RecommendResponse
from .index_change import is_active
from .live_model import LiveModel, Served
from .microbatch import DeadlineError, MicroBatcher
from .recommender import Recommendation, Recommender, UnknownItemError
from .result_cache import MemoryCache, RedisCache, ResultCache, cache_key
from .server_config import ServerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserQuery:
    """One user's request with its defaults filled in; `beam_widths` None = as the policy decides."""

    history: list[str]
    events: list[str] | None
    values: list[float] | None
    times: list[float] | None
    cross_domain: list[str] | None
    user_features: dict[str, str | None]
    top_k: int
    beam_widths: tuple[int, ...] | None
    exclude_history: bool
    max_per_account: int | None

    @property
    def group(self) -> Hashable:
        """Queries with the same group fit in one call of the recommender, and waste at most half of its rows: all run
        as many as the widest of them."""
        octave = None if self.beam_widths is None else tuple(width.bit_length() for width in self.beam_widths)
        absent = self.events is None, self.values is None, self.times is None, self.cross_domain is None
        return octave, self.max_per_account, absent


@dataclass(frozen=True)
class BatchPlan:
    """served: what the batch is answered with; widths: T widths for each query."""

    served: Served
    widths: list[tuple[int, ...]]


@dataclass(frozen=True)
class Answer:
    """ranked: ads, best first. widths: T beam widths used. model, unit: the recommender's name and unit of values.
    version, changes: as of [`Served`]. cached: whether it is an earlier one."""

    ranked: list[Recommendation]
    widths: tuple[int, ...]
    model: str
    unit: str
    version: int
    changes: int
    cached: bool = False


class RefusedError(ValueError):
    """A request that cannot be answered as it stands; `error` says why."""

    def __init__(self, field: str | None, detail: str):
        super().__init__(detail)
        self.error = ErrorResponse(detail=detail, field=field)


def recommend_together(queries: Sequence[UserQuery], plan: BatchPlan) -> list[Answer]:
    """Answers queries of one group with one call."""
    recommender, served = plan.served.recommender, plan.served
    first = queries[0]
    lists = recommender.recommend(
        [query.history for query in queries],
        events=None if first.events is None else [query.events or [] for query in queries],
        values=None if first.values is None else [query.values or [] for query in queries],
        times=None if first.times is None else [query.times or [] for query in queries],
        cross_domain=None if first.cross_domain is None else [query.cross_domain or [] for query in queries],
        user_features={
            name: [query.user_features.get(name) for query in queries] for name in recommender.tokenizer.user_features
        },
        top_k=[query.top_k for query in queries],
        beam_widths=plan.widths,
        exclude_history=[query.exclude_history for query in queries],
        max_per_account=first.max_per_account,
    )
    return [
        Answer(ranked, widths, recommender.name, recommender.tokenizer.value_unit, served.version, served.changes)
        for ranked, widths in zip(lists, plan.widths, strict=True)
    ]


def to_query(recommender: Recommender, config: ServerConfig, request: RecommendRequest) -> UserQuery:
    """Fills in defaults and refuses what the model cannot use.

    Raises:
        RefusedError: Naming the field, what was received, what is allowed and the remedy.
    """
    tokenizer = recommender.tokenizer
    widths = request.beam_widths or recommender.beam_widths
    top_k = min(config.top_k, widths[-1]) if request.top_k is None else request.top_k
    if top_k > widths[-1]:
        raise RefusedError(
            "top_k",
            f"`top_k` must be in 1..{widths[-1]}, the last beam width. Received: {top_k}. Ask for fewer items, or "
            "name wider `beam_widths`.",
        )
    if request.events is not None:
        new = next((event for event in request.events if event not in tokenizer.event_names), None)
        if not tokenizer.event_names:
            raise RefusedError("events", f"{recommender.name!r} was trained without event names. Leave `events` out.")
        if new is not None:
            raise RefusedError(
                "events",
                f"`events` holds {ascii(new)}; allowed are {', '.join(tokenizer.event_names)}. Use one of these.",
            )
    if request.values is not None and not recommender.model.config.context_values:
        raise RefusedError(
            "values", f"{recommender.name!r} was trained without values in the history. Leave `values` out."
        )
    if request.times is not None and not recommender.model.config.num_time_buckets:
        raise RefusedError(
            "times", f"{recommender.name!r} was trained without times of the history. Leave `times` out."
        )
    if request.cross_domain is not None and not recommender.model.config.num_cross_domain_items:
        raise RefusedError(
            "cross_domain", f"{recommender.name!r} was trained without what users do elsewhere. Leave it out."
        )
    if request.max_per_account is not None:
        try:
            recommender.check_max_per_account(request.max_per_account)
        except ValueError as error:
            raise RefusedError("max_per_account", str(error)) from error
    features = request.user_features or {}
    for name in features:
        if name not in tokenizer.user_features:
            raise RefusedError(
                "user_features",
                f"`user_features` names {ascii(name)}; {recommender.name!r} knows "
                f"{', '.join(tokenizer.user_features) or 'none'}. Leave it out.",
            )
    try:
        recommender.known_places([request.history])
    except UnknownItemError as error:
        raise RefusedError("history", str(error)) from error
    return UserQuery(
        history=request.history,
        events=request.events,
        values=request.values,
        times=request.times,
        cross_domain=request.cross_domain,
        user_features=features,
        top_k=top_k,
        beam_widths=None if request.beam_widths is None else tuple(request.beam_widths),
        exclude_history=(recommender.excludes_history if request.exclude_history is None else request.exclude_history),
        max_per_account=request.max_per_account,
    )


class OverloadError(RuntimeError):
    """What waits already takes longer than the request may; `retry_after` seconds later it may fit."""

    def __init__(self, backlog: float, deadline: float):
        super().__init__(
            f"Requests that wait already take {backlog * 1000:.0f} ms even with the narrowest beams; this may wait "
            f"{deadline * 1000:.0f} ms. Send it again later, or start more replicas."
        )
        self.retry_after = max(1, math.ceil(backlog - deadline))


class RecommendService:
    """Requests in, responses out.

    One worker thread runs the model. A batch is planned when it starts: it takes what is served then, and beams as
    wide as the policy allows for the load then; requests that name their widths get these.
    """

    def __init__(self, live: LiveModel, config: ServerConfig, metrics: ServerMetrics):
        self.live, self.config, self.metrics = live, config, metrics
        self.policy = config.beam_policy(live.recommender.beam_widths)
        self.batcher: MicroBatcher[UserQuery, BatchPlan, Answer] = MicroBatcher(
            self._run,
            self._plan,
            lambda query: query.group,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
            size=lambda query: min(len(query.history), live.recommender.model.config.max_context_items),
            weight=lambda query: sum(query.beam_widths or self.policy.scaled(self.policy.scale)),
            max_weight=config.max_batch_rows,
        )
        self.cache: ResultCache | None = None
        if config.cache_url is not None:
            self.cache = RedisCache(config.cache_url, config.cache_seconds)
        elif config.cache_seconds:
            self.cache = MemoryCache(config.cache_seconds, config.cache_bytes)
        metrics.queue_depth.set_function(lambda: self.batcher.depth)
        metrics.beam_scale.set_function(lambda: self.policy.scale)
        metrics.model_version.set_function(lambda: live.served.version)
        metrics.index_changes.set_function(lambda: live.served.changes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life
    # ---------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Learns what batches cost, then takes requests and follows what is published."""
        self._loop = asyncio.get_running_loop()
        if self.policy.slo is not None:
            await asyncio.to_thread(self.warm_up)
        self.batcher.start()
        if self.live.published is not None:
            self._tasks.add(asyncio.create_task(self._follow()))

    async def close(self) -> None:
        """Answers what was accepted and ends."""
        for task in self._tasks:
            task.cancel()
        await self.batcher.close()
        if self.cache is not None:
            await self.cache.close()

    def warm_up(self, rounds: int = 2) -> None:
        """Runs batches of one and of many requests with the narrowest, the base and the widest beams, so that the
        policy knows what they cost before the first request comes."""
        recommender, policy = self.live.recommender, self.policy
        items = recommender.tokenizer.index.item_ids
        length = min(recommender.model.config.max_context_items, 20)
        self.live.recommender.recommend([[str(items[0])]])  # first calls are slow
        for number in range(rounds):
            for size in {1, policy.max_batch // 2 or 1, policy.max_batch}:
                for scale in {policy.scales[0], 1.0, policy.scales[-1]}:
                    widths = policy.scaled(scale)
                    spread = 1 + (7 * number + size) % length  # histories of several lengths
                    histories = [[str(item) for item in items[:spread]]] * size
                    begun = time.perf_counter()
                    recommender.recommend(histories, top_k=1, beam_widths=widths)
                    policy.finished(size, size * sum(widths), size * spread, time.perf_counter() - begun)

    async def _follow(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(self.config.watch_seconds)
            try:
                if await asyncio.to_thread(self.live.follow):
                    served = self.live.served
                    logger.info("Serving version %d with index change %d.", served.version, served.changes)
                said = ""
            except Exception as error:  # whatever was published, what is served goes on
                self.metrics.reload_failures.inc()
                if str(error) != said:
                    said = str(error)
                    logger.error("What was published cannot be served: %s", error)

    # --- batches
    # ------------------------------------------------------------------------------------------------------------

    def _plan(self, queries: Sequence[UserQuery], load: Load) -> BatchPlan:
        served = self.live.served
        self.policy.base_widths = tuple(served.recommender.beam_widths)
        decided = self.policy.widths(load)
        widths = [
            query.beam_widths or (*decided[:-1], max(decided[-1], query.top_k))  # a list as long as was asked for
            for query in queries
        ]
        self.metrics.batch_size.observe(len(queries))
        self.metrics.beam_rows.inc(sum(map(sum, widths)))
        return BatchPlan(served, widths)

    def _run(self, queries: Sequence[UserQuery], plan: BatchPlan) -> list[Answer]:
        begun = time.perf_counter()
        answers = recommend_together(queries, plan)
        seconds = time.perf_counter() - begun
        size = len(queries)
        rows = size * sum(map(max, zip(*plan.widths, strict=True)))  # all run as many as the widest
        items = size * max(len(query.history) for query in queries)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.policy.finished, size, rows, items, seconds)
        return answers

    # --- requests
    # -----------------------------------------------------------------------------------------------------------

    async def answer(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse | FailedRequest]:
        """Answers each request by itself. Cancelling it takes what still waits out of the queue.

        Raises:
            QueueFullError, OverloadError, DrainingError: If they were not accepted; then none was.
        """
        begun = time.perf_counter()
        outcomes = await asyncio.gather(*map(self._looked_up, requests), return_exceptions=True)
        waiting = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, UserQuery)]
        deadlines = [self._deadline(requests[place]) for place in waiting]
        queries = [outcome for outcome in outcomes if isinstance(outcome, UserQuery)]
        if queries:
            load = self.batcher.load()
            behind = Load(load.now, load.waiting + len(queries) - 1, load.oldest_wait)
            if not self.policy.admits(behind, min(deadlines)):
                raise OverloadError(self.policy.backlog(behind), min(deadlines))
            futures = self.batcher.submit(queries, timeouts=deadlines)
            self.policy.arrived(load.now, len(queries))
            results = await asyncio.gather(*futures, return_exceptions=True)
            for place, query, result in zip(waiting, queries, results, strict=True):
                outcomes[place] = result
                if isinstance(result, Answer):
                    await self._keep(query, result)
        return [
            self._response(outcome, begun) if isinstance(outcome, Answer) else self._failure(outcome)  # type: ignore[arg-type]
            for outcome in outcomes
        ]

    def _deadline(self, request: RecommendRequest) -> float:
        return min(self.config.deadline_ms, request.deadline_ms or math.inf) / 1000

    async def _looked_up(self, request: RecommendRequest) -> UserQuery | Answer:
        query = to_query(self.live.recommender, self.config, request)
        if self.cache is None:
            return query
        served = self.live.served
        kept = await self.cache.get(self._key(query, served.recommender.name, served.version))
        answer = None if kept is None else from_cache(kept, served)
        self.metrics.cache_lookups.labels("miss" if answer is None else "hit").inc()
        return query if answer is None else answer

    async def _keep(self, query: UserQuery, answer: Answer) -> None:
        if self.cache is not None:
            await self.cache.put(self._key(query, answer.model, answer.version), json.dumps(asdict(answer)).encode())

    def _key(self, query: UserQuery, model: str, version: int) -> str:
        return cache_key(model, str(version), json.dumps(asdict(query), sort_keys=True))

    def _response(self, answer: Answer, begun: float) -> RecommendResponse:
        served = self.live.served
        ranked = answer.ranked
        if answer.changes != served.changes:  # a slow batch must not bring back what was removed meanwhile
            index = served.recommender.tokenizer.index
            ranked = [ad for ad in ranked if is_active(index, ad.item_id)]
        return RecommendResponse(
            recommendations=[
                RecommendedItem(
                    item_id=ad.item_id,
                    score=ad.score,
                    value=ad.value,
                    value_unit=answer.unit,
                    sid=ad.sid,
                    attributes=ad.attributes,
                )
                for ad in ranked
            ],
            beam_widths=list(answer.widths),
            model=answer.model,
            model_version=answer.version,
            index_changes=answer.changes,
            cached=answer.cached,
            latency_ms=(time.perf_counter() - begun) * 1000,
        )

    def _failure(self, error: BaseException) -> FailedRequest:
        if isinstance(error, RefusedError):
            return FailedRequest(status=422, error=error.error)
        if isinstance(error, DeadlineError):
            return FailedRequest(status=504, error=ErrorResponse(detail=str(error)))
        logger.error("A request failed in the model.", exc_info=error)
        return FailedRequest(
            status=500,
            error=ErrorResponse(detail="The model failed on this request; the server's log says why. Report it."),
        )


def from_cache(kept: bytes, served: Served) -> Answer | None:
    """An earlier answer of the same weights, if all its ads are still served as they were."""
    parts = json.loads(kept)
    ranked = [Recommendation(**ad) for ad in parts["ranked"]]
    if parts["changes"] != served.changes:
        tokenizer = served.recommender.tokenizer
        index = tokenizer.index
        for ad in ranked:
            if not is_active(index, ad.item_id):
                return None
            row = index.rows[ad.item_id]
            sid = "".join(tokenizer.convert_ids_to_tokens(tokenizer.encode_items([ad.item_id])[0].tolist()))
            if sid != ad.sid or {name: values[row] for name, values in index.columns.items()} != ad.attributes:
                return None
    return Answer(**{**parts, "ranked": ranked, "widths": tuple(parts["widths"]), "cached": True})


__all__ = ["Answer", "BatchPlan", "OverloadError", "RecommendService", "RefusedError", "UserQuery", "to_query"]
