from pathlib import Path

import pytest
from shops import write_clicks_shop, write_lines_shop, write_orders_shop


@pytest.fixture(scope="session")
def shops(tmp_path_factory) -> Path:
    """A folder with the exports of the three shops of `shops.py`."""
    folder = tmp_path_factory.mktemp("shops")
    write_orders_shop(folder / "orders")
    write_clicks_shop(folder / "clicks")
    write_lines_shop(folder / "lines")
    return folder
