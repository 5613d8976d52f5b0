import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from gr4ad.report.plots import usage_plot
from gr4ad.report.sid_page import EmbeddingMap, SIDReport, write_sid_report
from gr4ad.report.sid_plots import HUES

VOID = {"meta", "link", "img", "br", "hr", "input"}
BOLD = "Cream <b>50 ml</b> & $5"


class Page(HTMLParser):
    """Checks that tags nest, and collects sections, points and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def sections(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


def render(report: SIDReport, folder) -> tuple[str, Page]:
    path = folder / "new" / "sid_report.html"
    write_sid_report(path, report)
    html = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open and list(path.parent.iterdir()) == [path]
    return html, page


@pytest.fixture
def report() -> SIDReport:
    figures = {"items": 9, "prefixes": 2, "purity": 0.75, "chance": 0.5, "adjusted": 0.5}
    figures |= {"shared_items": 9, "shared_purity": 0.75, "shared_chance": 0.5}
    alone = {**figures, "prefixes": 9, "purity": 1.0, "chance": 1.0, "adjusted": float("nan")}
    alone |= {"shared_items": 0, "shared_purity": float("nan"), "shared_chance": float("nan")}
    quality = {"cpr": 1.25, "col": 0.125, "util": 0.0016, "items_in_shared_sids": 0.3}
    level = {"hashed": False, "used": 0.5, "perplexity": 2.0, "largest_share": 0.5}
    return SIDReport(
        title="Shop <i>one</i>",
        items=10,
        sids=8,
        quality={**quality, "interactions_in_shared_sids": 0.4321},
        levels=[{"size": 4, **level}, {"size": 4, **level, "hashed": True}],
        code_counts=[[5, 5, 0, 0], [3, 3, 3, 1]],
        items_per_sid={1: 7, 3: 1},
        collisions=[{"sid": "<a_1><b_2>", "items": 3, "interactions": 17, "titles": [(BOLD, 2)], "untold": 1}],
        examples=[
            {
                "code": 1,
                "token": "<a_1>",
                "items": 5,
                "titles": [BOLD, "x" * 200],
                "category": "A&B",
                "category_share": 0.8,
            }
        ],
        category_column="category",
        category_count=12,
        purity=[figures, alone],
        embedding_map=EmbeddingMap(
            points=np.random.default_rng(0).normal(size=(20, 2)),
            titles=[BOLD] * 20,
            sids=["<a_1><b_2>"] * 20,
            first_codes=np.arange(20) % 2,
            categories=[None, *[f"c{n % 12}" for n in range(19)]],
        ),
        interactions=1234,
    )


def test_the_page_is_whole_and_loads_nothing(report, tmp_path):
    html, page = render(report, tmp_path)
    assert page.sections() == ["map", "examples", "usage", "purity", "collisions"]
    links = [attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")]
    assert links == page.sections()
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    assert "<script" not in html and "@import" not in html and len(re.findall(r"https?://", html)) == 1
    for drawing in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", drawing), "colours come from the style sheet"


def test_the_page_tells_its_figures(report, tmp_path):
    _, page = render(report, tmp_path)
    for text in ("43.2%", "12.5%", "1.6‰", "1.25", "1\u202f234 interactions", "hash of business fields", "(2 items)"):
        assert text in page.text, text
    assert "The first code names the category of 75% of the items; by chance it would be 50%." in page.text
    assert "The first 2 codes name every item alone" in page.text
    assert "and 1 more" in page.text and "80% A&B" in page.text


def test_text_of_the_data_is_escaped(report, tmp_path):
    html, page = render(report, tmp_path)
    assert "<b>50" not in html and "<i>one" not in html and "<a_1>" not in html
    assert page.text.count(BOLD) == 1 + 1 + 2 * 20  # collision, example, a point in each of two maps
    assert "x" * 87 + "…" in page.text and "x" * 88 not in page.text


def test_the_map_colours_the_largest_categories(report, tmp_path):
    html, page = render(report, tmp_path)
    first, second = re.findall(r'<svg viewBox="0 0 400 400".*?</svg>', html, flags=re.DOTALL)
    assert first.count("<circle") == second.count("<circle") == 20
    assert {int(hue) for hue in re.findall(r'class="hue-(\d)"', first)} == set(range(HUES + 1))
    assert set(re.findall(r'class="hue-(\d)"', second)) == {"0", "1"}
    for x, y in re.findall(r'cx="([^"]*)" cy="([^"]*)"', first):
        assert 0 <= float(x) <= 400 and 0 <= float(y) <= 400
    assert "everything else" in page.text


def test_without_categories_the_page_says_why(report, tmp_path):
    places = replace(report.embedding_map, categories=[])
    examples = [{**report.examples[0], "category": None, "category_share": 0.0}]
    why = "the catalog has none of the columns <b>."
    bare = replace(
        report, category_column=None, category_problem=why, purity=[], embedding_map=places, examples=examples
    )
    html, page = render(bare, tmp_path)
    assert f"Left out: {why}" in page.text and "Prefix purity" not in page.text and "A&B" not in page.text
    assert html.count('viewBox="0 0 400 400"') == 1 and "no categories" in page.text


def test_empty_parts_are_left_out(report, tmp_path):
    _, page = render(replace(report, embedding_map=None, examples=[], collisions=[]), tmp_path)
    assert page.sections() == ["usage", "purity", "collisions"]
    assert "No two items share an SID." in page.text


def test_points_in_one_place_are_drawn(report, tmp_path):
    places = replace(report.embedding_map, points=np.ones((20, 2)))
    html, _ = render(replace(report, embedding_map=places), tmp_path)
    assert "nan" not in html


def test_a_large_codebook_stays_small():
    counts = np.random.default_rng(0).integers(0, 50, 16384).tolist()
    assert len(usage_plot(1, counts).svg) < 60_000
