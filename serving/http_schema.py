# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""JSON bodies of the HTTP API: what `/openapi.json` shows and requests are checked against."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model, model_validator

from gr4ad.tokenization import HISTORY_FEATURES, HistoryError, UserHistory
from gr4ad.tokenization.user_history import LARGEST_AMOUNT, MAX_ID_LENGTH

from .request_types import ITEM_LISTS, RecommendQuery, Refusal, RefusedError
from .serving_options import RequestLimits

MAX_TEXT_LENGTH = 256  # characters of an event name, a feature name or category
MAX_USER_FEATURES = 64

Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH)]
ItemId = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ENTRIES: dict[str, Any] = {
    "id": list[ItemId],
    "text": list[Text],
    "amount": list[Annotated[float, Field(ge=0, le=LARGEST_AMOUNT, allow_inf_nan=False)]],
    "time": list[Annotated[float, Field(allow_inf_nan=False)] | None],
}
"""What a history feature is in JSON, by the kind of its entries."""


class RecommendRequest(BaseModel):
    """One user's history and what to return."""

    model_config = ConfigDict(extra="forbid")

    history: list[str]
    user_features: dict[str, str | None] | None
    top_k: int | None
    beam_widths: list[int] | None
    exclude_history: bool | None
    max_per_account: int | None
    deadline_ms: float | None
    allow_items: list[str] | None
    block_items: list[str] | None

    @model_validator(mode="after")
    def _aligned(self) -> RecommendRequest:
        for feature in HISTORY_FEATURES:
            given = self.__dict__[feature.name]
            if given is not None and feature.along == "items" and len(given) != len(self.history):
                raise ValueError(
                    f"`{feature.name}` needs one entry for each of the {len(self.history)} history items, not "
                    f"{len(given)}"
                )
        return self

    def query(self) -> RecommendQuery:
        """The same for an engine.

        Raises:
            RefusedError: If features do not go together.
        """
        given = self.__dict__
        try:
            user = UserHistory(
                self.history,
                **{feature.name: given[feature.name] for feature in HISTORY_FEATURES},
                user_features=self.user_features or {},
            )
        except HistoryError as error:
            raise RefusedError(Refusal(422, error.message, error.field)) from error
        return RecommendQuery(
            user,
            self.top_k,
            None if self.beam_widths is None else tuple(self.beam_widths),
            self.exclude_history,
            self.max_per_account,
            self.deadline_ms,
            **{name: None if given[name] is None else tuple(given[name]) for name in ITEM_LISTS},
        )


def request_fields(limits: RequestLimits) -> dict[str, Any]:
    """Type and limits of each field of a request: the history, its features of `HISTORY_FEATURES`, the options."""
    length = limits.max_history

    def optional(annotation: Any, description: str, **limit: Any) -> Any:
        return annotation | None, Field(default=None, description=description, **limit)

    history = "Item ids the user engaged with, oldest first; unknown ids are skipped and listed in the answer."
    widths = list[Annotated[int, Field(ge=1, le=limits.max_beam_width)]]
    return {
        # An empty one is refused with what it lacks, not with pydantic's words.
        "history": (list[ItemId], Field(max_length=length, json_schema_extra={"minItems": 1}, description=history)),
        **{
            feature.name: optional(ENTRIES[feature.kind], feature.description, max_length=length)
            for feature in HISTORY_FEATURES
        },
        "user_features": optional(
            dict[Text, Text | None],
            "Category of each structured user feature; missing or new categories count as unknown.",
            max_length=MAX_USER_FEATURES,
        ),
        "top_k": optional(
            int,
            "Items to return, at most the last beam width; default: the server's.",
            ge=1,
            le=limits.max_top_k,
        ),
        "beam_widths": optional(
            widths,
            "Beams kept after each level of the semantic ID; default: the model's, scaled by load.",
            min_length=limits.levels,
            max_length=limits.levels,
        ),
        "exclude_history": optional(bool, "Never return an item of the history; default: the model's."),
        "max_per_account": optional(
            int, "Items of one account that the list may hold; default: no limit.", ge=1, le=limits.max_top_k
        ),
        "deadline_ms": optional(
            Duration, "Milliseconds that the request may wait before the model starts on it; at most the server's."
        ),
        "allow_items": optional(
            list[ItemId],
            "Item ids that alone may be returned, e.g. those that targeting leaves; an empty list allows none; "
            "default: all.",
            max_length=limits.max_listed,
        ),
        "block_items": optional(
            list[ItemId],
            "Item ids that may not be returned, e.g. of paused campaigns or spent budgets.",
            max_length=limits.max_listed,
        ),
    }


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
    unknown_items: dict[str, list[str]] = Field(
        description="Ids that the catalog does not hold, which had no effect, by field of the request: `history`, "
        "`allow_items`, `block_items`. Empty if all are known."
    )
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


def request_models(limits: RequestLimits) -> tuple[type[RecommendRequest], type[BatchRequest]]:
    """The bodies of `/v1/recommend` within limits: one request, or several."""
    single = create_model(
        "RecommendRequest", __base__=RecommendRequest, __doc__=RecommendRequest.__doc__, **request_fields(limits)
    )
    batch = create_model(
        "BatchRequest",
        __base__=BatchRequest,
        __doc__=BatchRequest.__doc__,
        requests=(list[single], Field(min_length=1, max_length=limits.max_requests)),  # type: ignore[valid-type]
    )
    return single, batch


def either(single: Any, batch: Any) -> Any:
    """The annotation of a body that is one or the other."""
    return Annotated[Annotated[single, Tag("single")] | Annotated[batch, Tag("batch")], Discriminator(body_kind)]


REQUEST_FIELDS = tuple(request_fields(RequestLimits(1, 1, 1, 1, 1, 1)))


def remedy_for(error: dict[str, Any]) -> str | None:
    """What to write in place of a value that stands in the wrong form: text for a number, a list for what stands
    alone."""
    received = error.get("input")
    if error["type"] == "string_type" and isinstance(received, int | float):
        return f'Ids and names are text: write "{received}".'
    if error["type"] == "list_type" and isinstance(received, str | int | float):
        written = json.dumps(received) if len(str(received)) <= MAX_TEXT_LENGTH else "..."
        return f"Write a list: [{written}{', ...' if error['loc'][-1] == 'beam_widths' else ''}]."
    return None


def readable_error(error: dict[str, Any]) -> ErrorResponse:
    """One validation error of pydantic as field, what was received, what is allowed, and the remedy."""
    place = [str(part) for part in error["loc"][1:]]
    place = place[1:] if place[:1] in (["single"], ["batch"]) else place
    name = ".".join(place)[:MAX_TEXT_LENGTH]
    received = ascii(error.get("input"))
    received = received if len(received) <= 100 else f"{received[:100]}..."
    subject = f"`{name or 'body'}`"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(REQUEST_FIELDS)
        detail = f"{subject} is not a field of this request. Remove it; allowed are {allowed}."
    elif error["type"] == "missing":
        detail = f"{subject} is missing: add it; /openapi.json lists what is allowed."
    elif error["type"] == "value_error":
        detail = f"{error['ctx']['error']}. Give them equal lengths, or leave the field out."
    else:
        remedy = remedy_for(error) or "Correct it; /openapi.json lists what is allowed."
        if not name:
            remedy = "Send a JSON object with the header `content-type: application/json`."
        detail = f"{subject}: {error['msg']}. Received: {received}. {remedy}"
    return ErrorResponse(detail=detail, field=name or None)
