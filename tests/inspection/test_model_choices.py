import math

import pytest

from gr4ad.inspection.model_choices import codebook_size


@pytest.mark.parametrize("items", [1, 2, 5, 40, 300, 3000, 12_101, 20_897, 100_000, 10**6, 10**8])
def test_codebooks_fit_the_catalog(items):
    size = codebook_size(items)
    assert math.log2(size).is_integer() and size <= 4096
    assert size <= max(2, items)
    if 40 <= items <= 4096**2 / 3:
        assert size**2 >= 3 * items and (size // 2) ** 2 < 3 * items


def test_codebooks_of_the_packaged_recipes():
    assert codebook_size(12_101) == codebook_size(20_897) == 256 and codebook_size(3000) == 128
