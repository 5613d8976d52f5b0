import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # its shops are those that the tests inspect
from measurement.shop_exports import SHOPS, ShopSize


@pytest.fixture(scope="session")
def shops(tmp_path_factory) -> Path:
    """A folder with the exports of the three shops of `shop_exports.py`, at their smallest."""
    folder = tmp_path_factory.mktemp("shops")
    for name, write in SHOPS.items():
        write(folder / name, ShopSize())
    return folder
