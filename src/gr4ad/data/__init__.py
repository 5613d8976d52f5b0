"""Data reading: raw tables in, checked and split sequences out.

```python
from gr4ad.data import DataConfig, load_prepared, prepare

data = prepare(DataConfig(root="shop", value_unit="USD"), "out/data")   # shop/catalog.parquet, shop/events.parquet
data.train[0]["items"]                                                # ["B001", "B002", ...], oldest first
data = load_prepared("out/data")                                      # the same, later
```
"""

from .checking import DROP_REASONS, DataError
from .config import DataConfig
from .preparation import PreparedData, load_prepared, prepare, write_prepared
from .reading import read_table

__all__ = [
    "DROP_REASONS",
    "DataConfig",
    "DataError",
    "PreparedData",
    "load_prepared",
    "prepare",
    "read_table",
    "write_prepared",
]
