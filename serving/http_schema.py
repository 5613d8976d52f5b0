# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""JSON bodies of the HTTP API: what `/openapi.json` shows and requests are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model, model_validator

MAX_TEXT_LENGTH = 256  # characters of an item id, an event name, a feature name or category
MAX_USER_FEATURES = 64

Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH)]
Value = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Time = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class RequestLimits:
    """max_history (items), max_top_k (items), max_beam_width (beams), levels (T), max_requests (of one body)."""

    max_history: int
    max_top_k: int
    max_beam_width: int
    levels: int
    max_requests: int


class RecommendRequest(BaseModel):
    """One user's history and what to return."""

    model_config = ConfigDict(extra="forbid")

    history: list[str] = Field(description="Item ids the user engaged with, oldest first; unknown ids are skipped.")
    events: list[str] | None = Field(default=None, description="Event name of each history item.")
    values: list[float] | None = Field(default=None, description="Value of each history item, >= 0, in `value_unit`.")
    times: list[float] | None = Field(
        default=None,
        description="When each history item was engaged with, in seconds of any clock, e.g. Unix time.",
    )
    cross_domain: list[str] | None = Field(
        default=None, description="What the user did elsewhere, any ids, oldest first; of any length."
    )
    user_features: dict[str, str | None] | None = Field(
        default=None,
        description="Category of each structured user feature; missing or new categories count as unknown.",
    )
    top_k: int | None = Field(
        default=None, description="Items to return, at most the last beam width; default: the server's."
    )
    beam_widths: list[int] | None = Field(
        default=None,
        description="Beams kept after each level of the semantic ID; default: the model's, scaled by load.",
    )
    exclude_history: bool | None = Field(
        default=None, description="Never return an item of the history; default: the model's."
    )
    max_per_account: int | None = Field(
        default=None, description="Items of one account that the list may hold; default: no limit."
    )
    deadline_ms: float | None = Field(
        default=None,
        description="Milliseconds that the request may wait before the model starts on it; at most the server's.",
    )

    @model_validator(mode="after")
    def _aligned(self) -> RecommendRequest:
        for name, given in (("events", self.events), ("values", self.values), ("times", self.times)):
            if given is not None and len(given) != len(self.history):
                raise ValueError(
                    f"`{name}` needs one entry for each of the {len(self.history)} history items, not {len(given)}"
                )
        return self


class BatchRequest(BaseModel):
    """Several users in one body; each is answered by itself."""

    model_config = ConfigDict(extra="forbid")

    requests: list[RecommendRequest]


class RecommendedItem(BaseModel):
    """One ranked ad."""

    item_id: str
    score: float = Field(description="Ranking score (log-probability based), comparable within one request.")
    value: float | None = Field(description="Expected value in `value_unit`; null for a model without value head.")
    value_unit: str
    sid: str = Field(description="Semantic ID, e.g. `<a_3><b_17><c_9>`.")
    attributes: dict[str, Any] = Field(description="Further columns of the item table, e.g. `title`.")


class RecommendResponse(BaseModel):
    """At most `top_k` recommendations, best first."""

    recommendations: list[RecommendedItem]
    beam_widths: list[int] = Field(description="Beam widths used, one a level.")
    model: str
    model_version: int = Field(description="Version of the weights.")
    index_changes: int = Field(description="Number of the last change of the ads that the answer knows.")
    cached: bool = Field(description="Whether it is an earlier answer to the same request.")
    latency_ms: float = Field(description="From the parsed request to its answer, milliseconds, waiting included.")


class ErrorResponse(BaseModel):
    """Why a request was refused: field, what was received, what is allowed, the remedy."""

    detail: str
    field: str | None = Field(default=None, description="The field at fault, e.g. `requests.2.history`.")


class FailedRequest(BaseModel):
    """The place of a request of a batch that has no answer."""

    status: int = Field(description="The HTTP status the request would have got by itself.")
    error: ErrorResponse


class BatchResponse(BaseModel):
    """One entry a request, in their order."""

    responses: list[RecommendResponse | FailedRequest]


def body_kind(body: Any) -> str:
    """`batch` for a body with `requests`, else `single`; so that errors speak of the shape that was meant."""
    return "batch" if isinstance(body, BatchRequest) or (isinstance(body, dict) and "requests" in body) else "single"


def request_body(limits: RequestLimits) -> Any:
    """The annotation of a `/v1/recommend` body: `RecommendRequest | BatchRequest` narrowed to `limits`."""

    def narrowed(annotation: Any, name: str, **limit: Any) -> Any:
        wide = RecommendRequest.model_fields[name]
        return annotation, Field(default=wide.default, description=wide.description, **limit)

    length = limits.max_history
    fields: dict[str, Any] = {
        # An empty one is refused with what it lacks, not with pydantic's words.
        "history": narrowed(list[Text], "history", max_length=length, json_schema_extra={"minItems": 1}),
        "events": narrowed(list[Text] | None, "events", max_length=length),
        "values": narrowed(list[Value] | None, "values", max_length=length),
        "times": narrowed(list[Time] | None, "times", max_length=length),
        "cross_domain": narrowed(list[Text] | None, "cross_domain", max_length=length),
        "deadline_ms": narrowed(Duration | None, "deadline_ms"),
        "user_features": narrowed(dict[Text, Text | None] | None, "user_features", max_length=MAX_USER_FEATURES),
        "top_k": narrowed(int | None, "top_k", ge=1, le=limits.max_top_k),
        "max_per_account": narrowed(int | None, "max_per_account", ge=1, le=limits.max_top_k),
        "beam_widths": narrowed(
            list[Annotated[int, Field(ge=1, le=limits.max_beam_width)]] | None,
            "beam_widths",
            min_length=limits.levels,
            max_length=limits.levels,
        ),
    }
    single = create_model("RecommendRequest", __base__=RecommendRequest, __doc__=RecommendRequest.__doc__, **fields)
    batch = create_model(
        "BatchRequest",
        __base__=BatchRequest,
        __doc__=BatchRequest.__doc__,
        requests=(list[single], Field(min_length=1, max_length=limits.max_requests)),  # type: ignore[valid-type]
    )
    return Annotated[Annotated[single, Tag("single")] | Annotated[batch, Tag("batch")], Discriminator(body_kind)]


def readable_error(error: dict[str, Any]) -> ErrorResponse:
    """One validation error of pydantic as field, what was received, what is allowed, and the remedy."""
    place = [str(part) for part in error["loc"][1:]]
    place = place[1:] if place[:1] in (["single"], ["batch"]) else place
    name = ".".join(place)[:MAX_TEXT_LENGTH]
    received = ascii(error.get("input"))
    received = received if len(received) <= 100 else f"{received[:100]}..."
    subject = f"`{name or 'body'}`"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(RecommendRequest.model_fields)
        detail = f"{subject} is not a field of this request. Remove it; allowed are {allowed}."
    elif error["type"] == "missing":
        detail = f"{subject} is missing: add it; /openapi.json lists what is allowed."
    elif error["type"] == "value_error":
        detail = f"{error['ctx']['error']}. Give them equal lengths, or leave the field out."
    else:
        remedy = "Correct it; /openapi.json lists what is allowed."
        if not name:
            remedy = "Send a JSON object with the header `content-type: application/json`."
        detail = f"{subject}: {error['msg']}. Received: {received}. {remedy}"
    return ErrorResponse(detail=detail, field=name or None)


__all__ = [
    "BatchRequest",
    "BatchResponse",
    "ErrorResponse",
    "FailedRequest",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendedItem",
    "RequestLimits",
    "readable_error",
    "request_body",
]
