"""Online learning: streams of logs in, published weights and index changes out."""

from .catalog_changes import CatalogChanges
from .folder_stream import FolderStream
from .online_config import OnlineConfig
from .online_loop import OnlineLoop
from .record_stream import LostRecordsError, RecordStream, Unreadable, open_stream

__all__ = [
    "CatalogChanges",
    "FolderStream",
    "LostRecordsError",
    "OnlineConfig",
    "OnlineLoop",
    "RecordStream",
    "Unreadable",
    "open_stream",
]
