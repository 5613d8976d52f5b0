"""Words of the simulated market: verticals, their categories and products, and the phrases that ads are written with.
They stand in `vocabulary.toml`.

Every ad is a combination of a category, a product, a selling point and an audience. The same combination gives the ad
its latent vector (`gr4ad.market.ads`), so texts that share words describe ads that share vectors.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Category:
    """A category: its `name`, the `purpose` phrase its descriptions use, and its `products` (six each)."""

    name: str
    purpose: str
    products: list[str]


@dataclass(frozen=True)
class Vertical:
    """A vertical.

    Attributes:
        name: Name shown in the `category` column.
        categories: Six categories.
        selling_points: Eight adjectives for the title, each with a benefit sentence for the description.
        audiences: Four audiences.
        conversion_types: Conversion types with their shares (sum 1).
        price: Median product price, RMB fen; 0 for free products.
        click_value: Mean worth of one click relative to the other verticals (dimensionless).
    """

    name: str
    categories: list[Category]
    selling_points: dict[str, str]
    audiences: list[str]
    conversion_types: dict[str, float]
    price: int
    click_value: float


@dataclass(frozen=True)
class Vocabulary:
    """All words. `titles` and `openings` are templates; `calls` are the last sentences by conversion type; a brand is
    one of `brand_starts`, `brand_middles` and `brand_ends` each, joined."""

    verticals: list[Vertical]
    titles: list[str]
    openings: list[str]
    calls: dict[str, list[str]]
    brand_starts: list[str]
    brand_middles: list[str]
    brand_ends: list[str]


def load_vocabulary() -> Vocabulary:
    """The words of the file beside this module."""
    content = tomllib.loads(files("gr4ad.market").joinpath("vocabulary.toml").read_text(encoding="utf-8"))
    verticals = [
        Vertical(**{**vertical, "categories": [Category(**category) for category in vertical["categories"]]})
        for vertical in content.pop("verticals")
    ]
    return Vocabulary(verticals, **content)


VOCABULARY = load_vocabulary()
