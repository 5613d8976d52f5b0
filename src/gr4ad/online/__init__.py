"""Online learning: streams of logs in, published weights and index changes out.

The settings are importable without torch, so that a command line is parsed before it is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .catalog_changes import CatalogChanges as CatalogChanges
    from .folder_stream import FolderStream as FolderStream
    from .log_streams import open_stream as open_stream
    from .online_config import OnlineConfig as OnlineConfig
    from .online_loop import OnlineLoop as OnlineLoop
    from .record_stream import LostRecordsError as LostRecordsError
    from .record_stream import RecordStream as RecordStream
    from .record_stream import Unreadable as Unreadable

MODULES = {
    "CatalogChanges": "catalog_changes",
    "FolderStream": "folder_stream",
    "LostRecordsError": "record_stream",
    "OnlineConfig": "online_config",
    "OnlineLoop": "online_loop",
    "RecordStream": "record_stream",
    "Unreadable": "record_stream",
    "open_stream": "log_streams",
}

__all__ = [*MODULES]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)
