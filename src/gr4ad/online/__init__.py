"""Online learning: streams of logs in, published weights and index changes out."""

from typing import TYPE_CHECKING

from gr4ad.trainers.lazy_names import lazy_names

if TYPE_CHECKING:
    from .catalog_changes import CatalogChanges as CatalogChanges
    from .folder_stream import FolderStream as FolderStream
    from .log_streams import open_stream as open_stream
    from .online_config import OnlineConfig as OnlineConfig
    from .online_loop import OnlineLoop as OnlineLoop
    from .record_stream import LostRecordsError as LostRecordsError
    from .record_stream import RecordStream as RecordStream
    from .record_stream import Unreadable as Unreadable

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "catalog_changes": ["CatalogChanges"],
        "folder_stream": ["FolderStream"],
        "log_streams": ["open_stream"],
        "online_config": ["OnlineConfig"],
        "online_loop": ["OnlineLoop"],
        "record_stream": ["LostRecordsError", "RecordStream", "Unreadable"],
    },
)
