import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_accounting_rows import FOUND

from gr4ad.report import RunReport, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
SECTIONS = ["results", "values", "training", "alignment", "sids", "request", "data", "time", "run", "notes"]


class Page(HTMLParser):
    """Checks that tags nest, and collects them with their attributes."""

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

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def render(report: RunReport, folder) -> tuple[str, Page]:
    path = folder / "new" / "report.html"
    write_report(path, report)
    html = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    assert list(path.parent.iterdir()) == [path]
    return html, page


def test_full_page_is_well_formed_and_has_every_section(report, tmp_path):
    _, page = render(report, tmp_path)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == SECTIONS
    targets = [attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")]
    assert targets == SECTIONS
    used = [re.findall(r"url\(#([^)]*)\)", " ".join(map(str, attributes.values()))) for _, attributes in page.tags]
    assert {name for names in used for name in names} <= set(page.ids())


def test_page_loads_nothing(report, tmp_path):
    html, page = render(report, tmp_path)
    assert not {"script", "link", "iframe", "img", "object", "embed"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            if tag != "a" and name in attributes:
                assert attributes[name].startswith("#")
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert len(re.findall(r"https?://", html)) == 1, "only the link to the paper"


def test_text_of_the_data_is_escaped(report, tmp_path):
    html, page = render(report, tmp_path)
    assert "<script" not in html and "<b>1</b>" not in html and "<i>markup" not in html
    assert "Essie <script>alert(1)</script> & $5 | polish" in page.text


def test_plots_take_their_colours_from_the_page(report, tmp_path):
    html, page = render(report, tmp_path)
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 3 + 1 + 6 + 3 + 2 + 1  # bars, reliability, training, alignment, levels, tree
    assert not any(re.search(r"#[0-9a-f]{6}\b", drawing) for drawing in drawings)


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("metrics", "results"),
        ("value_calibration", "values"),
        ("training_log", "training"),
        ("alignment_log", "alignment"),
        ("beam_tree", "request"),
        ("data_summary", "data"),
        ("timings", "time"),
        ("notes", "notes"),
    ],
)
def test_an_empty_part_leaves_out_its_section_only(report, tmp_path, field, section):
    empty = type(getattr(report, field))()
    _, page = render(replace(report, **{field: empty}), tmp_path)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [name for name in SECTIONS if name != section]


def test_the_account_of_the_data_and_its_warnings_are_on_the_page(report, tmp_path):
    summary = {**report.data_summary, "accounting": {**FOUND, "warnings": ["<b>Ties</b> everywhere."]}}
    _, page = render(replace(report, data_summary=summary), tmp_path)
    assert "none of 14 held-out events" in page.text and "<b>Ties</b> everywhere." in page.text


def test_a_title_alone_is_a_page_without_sections(tmp_path):
    _, page = render(RunReport("Nothing yet"), tmp_path)
    assert not [tag for tag, _ in page.tags if tag in ("section", "svg", "table")]
    assert "Nothing yet" in page.text


def test_one_logged_point_draws_nothing(report, tmp_path):
    log = [{"step": 1, "epoch": 0.1, "loss": 1.0}, {"step": 2, "epoch": 0.2, "train_runtime": 3.0}]
    _, page = render(replace(report, training_log=log), tmp_path)
    assert "training" not in page.ids()
