# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""vLLM's schedulers with beam widths by load: one [`WidthPolicy`] decides, what it says is written into the requests.

Of vLLM's schedulers, whose interface is not public, four methods are extended and none is replaced; which of their
attributes are touched stands in `TOUCHED`, which are new in `ADDED`, and `contract` compares both with the vLLM that
is installed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from gr4ad.modeling_gr4ad import RankingWeights

from ..beam_policy import Load
from ..request_types import Refusal
from .options import VLLMOptions
from .query import QUERY, REFUSAL, WIDTHS
from .registration import CHUNKED_PREFILL_KEY

logger = logging.getLogger(__name__)

EXTENDED = ("__init__", "add_request", "schedule", "update_from_output")
TOUCHED = ("vllm_config", "scheduler_config", "requests", "waiting", "running", "max_num_active_reqs")
ADDED = ("gr4ad_options", "sid_levels", "beam_policy", "most_active", "last_step_finished")


def query_of(request: Request) -> dict[str, Any]:
    """What is written into a request: its query, widths, refusal. Empty for a request that is none of ours."""
    params = request.pooling_params
    return {} if params is None or params.extra_kwargs is None else params.extra_kwargs


def named_widths(extra: dict[str, Any]) -> Sequence[int] | None:
    """The beam widths a request came with; None where the engine is to choose."""
    return extra.get(QUERY, {}).get("beam_widths")


class LevelAdaptiveScheduler(Scheduler):
    """vLLM's scheduler, which also chooses beam widths, admits by beam rows and refuses what has waited too long."""

    max_num_active_reqs: int

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        vllm_config = self.vllm_config
        self.gr4ad_options = VLLMOptions.from_additional_config(vllm_config.additional_config)
        model = vllm_config.model_config
        self.sid_levels = model.hf_config.num_levels
        weights = RankingWeights.from_pretrained(model.model, revision=model.revision or "main")
        self.beam_policy = self.gr4ad_options.beam_policy(
            weights.widths(self.sid_levels), min(self.gr4ad_options.max_batch, self.max_num_active_reqs)
        )
        self.most_active = self.max_num_active_reqs
        self.last_step_finished = 0.0  # seconds of `time.time`, the clock that vLLM stamps arrivals with
        if CHUNKED_PREFILL_KEY in vllm_config.additional_config:
            self.scheduler_config.enable_chunked_prefill = vllm_config.additional_config[CHUNKED_PREFILL_KEY]

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        extra = query_of(request)
        now = time.time()
        self.beam_policy.arrived(now)
        deadline = self.deadline(request)
        load = Load(now=now, waiting=len(self.waiting), running=len(self.running))
        if QUERY in extra and not self.beam_policy.admits(load, deadline):
            seconds = self.beam_policy.backlog(load)
            detail = (
                f"{len(self.waiting)} requests wait, and the answer would take {seconds:.2f} s, more than the "
                f"deadline of {deadline:g} s. Send the request again later, or start more replicas."
            )
            self.refuse(request, Refusal(429, detail, retry_after=max(1, math.ceil(seconds - deadline))))

    def refuse(self, request: Request, refusal: Refusal) -> None:
        """Answers a waiting request in the next step, ahead of those that need the model."""
        query_of(request)[REFUSAL] = asdict(refusal)
        self.waiting.remove_request(request)
        self.waiting.prepend_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        begun = time.time()
        self.max_num_active_reqs = min(self.most_active, len(self.running) + self.prepare_waiting(begun))
        output = super().schedule(*args, **kwargs)
        output.gr4ad_begun = begun
        return output

    def waiting_queries(self) -> Iterator[Request]:
        return (request for request in self.waiting if REFUSAL not in query_of(request))

    def prepare_waiting(self, now: float) -> int:
        """Refuses those past their deadline, writes widths into the requests of the coming step, and counts them."""
        late = [request for request in self.waiting_queries() if now - request.arrival_time > self.deadline(request)]
        for request in late:
            detail = (
                f"The deadline of {self.deadline(request) * 1000:g} ms passed while the request waited for its turn. "
                "Send it again later, ask for narrower beams, or start more replicas."
            )
            self.refuse(request, Refusal(504, detail))
        widths: tuple[int, ...] | None = None
        rows_left = self.gr4ad_options.max_batch_rows - sum(self.rows(request) for request in self.running)
        places_left = self.gr4ad_options.max_batch - len(self.running)
        admitted = 0
        for request in self.waiting:
            extra = query_of(request)
            if REFUSAL in extra or QUERY not in extra:
                admitted += 1
                continue
            if places_left <= 0:
                break
            if named_widths(extra) is None:
                widths = widths or self.beam_policy.widths(self.load(now))
                # A list as long as was asked for.
                extra[WIDTHS] = [*widths[:-1], max(widths[-1], extra[QUERY].get("top_k") or 1)]
            rows = self.rows(request)
            if rows > rows_left and (self.running or places_left < self.gr4ad_options.max_batch):
                break
            rows_left -= rows
            places_left -= 1
            admitted += 1
        return admitted

    def load(self, now: float) -> Load:
        waiting = list(self.waiting_queries())
        oldest = min((request.arrival_time for request in waiting), default=now)
        return Load(now=now, waiting=len(waiting), oldest_wait=max(0.0, now - oldest), running=len(self.running))

    def deadline(self, request: Request) -> float:
        """Seconds that a request may wait."""
        most = self.gr4ad_options.deadline_ms
        return min(most, query_of(request).get(QUERY, {}).get("deadline_ms") or most) / 1000

    def rows(self, request: Request) -> int:
        """Beam rows of all levels that a request will take."""
        extra = query_of(request)
        widths = named_widths(extra) or extra.get(WIDTHS)
        return 0 if widths is None else sum(widths)

    def update_from_output(self, scheduler_output: SchedulerOutput, *args: Any, **kwargs: Any) -> Any:
        step = [self.requests.get(request_id) for request_id in scheduler_output.num_scheduled_tokens]
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        now = time.time()
        answered = [
            request
            for request in step
            if request is not None and request.is_finished() and REFUSAL not in query_of(request)
        ]
        if answered:
            # With asynchronous scheduling a step waits for the one before it.
            begun = max(scheduler_output.gr4ad_begun, self.last_step_finished)
            self.beam_policy.finished(
                requests=len(answered),
                rows=sum(self.rows(request) for request in answered),
                context_items=sum(request.num_prompt_tokens // self.sid_levels for request in answered),
                seconds=max(now - begun, 0.0),
            )
        self.last_step_finished = now
        return outputs


class AsyncLevelAdaptiveScheduler(LevelAdaptiveScheduler, AsyncScheduler):
    """The same for `--async-scheduling`."""
