# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Online learning: streams of logs in, published weights and index changes out."""

from typing import TYPE_CHECKING

from gr4ad.trainers.lazy_names import lazy_names

if TYPE_CHECKING:
    from .catalog_changes import CatalogChanges
    from .folder_stream import FolderStream
    from .log_streams import open_stream
    from .online_config import OnlineConfig
    from .online_loop import OnlineLoop
    from .record_stream import LostRecordsError, RecordStream, Unreadable

NAMES = {
    "catalog_changes": "CatalogChanges",
    "folder_stream": "FolderStream",
    "log_streams": "open_stream",
    "online_config": "OnlineConfig",
    "online_loop": "OnlineLoop",
    "record_stream": "LostRecordsError RecordStream Unreadable",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
