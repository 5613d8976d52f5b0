import numpy as np
import pytest

from gr4ad.tokenization import SIDIndex


@pytest.fixture
def index() -> SIDIndex:
    """Five items, three of which share an SID."""
    columns = {"title": list("vwxyz"), "price": [1.5, None, 2.0, 0.0, 3.0]}
    return SIDIndex(list("abcde"), np.array([[0, 0], [2, 3], [1, 1], [2, 3], [2, 3]]), [0, 1, 0, 7, 1], columns)
