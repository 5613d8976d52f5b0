"""The tables of a data set by their role, and the errors that every reader of them raises."""

from __future__ import annotations

from typing import Literal

FileRole = Literal["catalog", "events", "users", "cross_domain"]

REQUIRED: dict[FileRole, list[str]] = {
    "catalog": ["item_id"],
    "events": ["user_id", "item_id"],
    "users": ["user_id"],
    "cross_domain": ["user_id", "item_id", "timestamp"],
}
"""Columns, under our names, without which a table of a role cannot be read."""
