"""The page to send: what is in it, and that nothing is fetched or executed."""

import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from report.conftest import write_one_figure, write_sweep, writer

from avalanche_mgem.report import Report, report

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The parts of a page. It checks that every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}  # by tag
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.rows = self.tables.setdefault(str(dict(attributes)["id"]), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of the sweep of the other tests, and of a strategy whose name and setting are a script."""
    root = tmp_path_factory.mktemp("page")
    write_sweep(root, seeds=2)
    for seed in range(2):
        writer(root)(f"sweep/evil-{seed}", EVIL, seed, settings={"option": EVIL}, config={"model.kind": "&<"})
        for path in (root / "sweep").glob(f"*-{seed}/config.yaml"):
            text = path.read_text()
            path.write_text(
                text if "kind" in text else text.replace("hidden_size", "kind: '&<'\n  hidden_size")
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avalanche_mgem.report.write.write_figures", write_one_figure)
        return report(root / "sweep", out=root / "report", html=True, command=f"mgem-report {EVIL}")


@pytest.fixture(scope="module")
def page(made: Report) -> Page:
    return Page((made.folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_has_the_tables_of_the_text_report(made: Report, page: Page) -> None:
    assert (
        list(page.tables)
        == [sheet.name for sheet in made._sheets]
        == ["results", "gap", "differences", "hypervolumes"]
    )
    for sheet in made._sheets:
        header, *rows = page.tables[sheet.name]
        assert tuple(header) == sheet.header
        assert [tuple(row) for row in rows] == list(sheet.rows)
    text = (made.folder / "report.md").read_text(encoding="utf-8")
    headings = [data.strip() for data in page.texts["h2"]]
    assert headings == re.findall(r"^## (.*)$", text, re.MULTILINE)
    for note in made.notes:
        assert note in page.texts["li"]
    assert any("the loss is nan" in line for line in page.texts["li"])


def test_the_figures_are_inside(made: Report, page: Page) -> None:
    images = page.attributes("img")
    assert [image["alt"] for image in images] == list(made.figures)
    for image, path in zip(images, made.figures.values(), strict=True):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert b64decode(data) == path.read_bytes()
        with Image.open(path) as picture:
            assert int(str(image["width"])) == round(picture.width * 0.55)  # narrow ones are not blown up


def test_a_name_is_never_markup(made: Report, page: Page) -> None:
    assert [row[0] for row in page.tables["results"]][-1] == EVIL
    assert EVIL in (made.folder / "report.md").read_text()  # as it is written in the others
    assert len(page.attributes("script")) == 1
    assert "alert(" not in "".join(page.texts["script"])
    assert f"mgem-report {EVIL}" in page.texts["code"]
    assert any("&<" in line for line in page.texts["li"])
    names = {name for _, attributes in page.tags for name in attributes}
    assert not any(name.startswith("on") or name == "style" for name in names)


def test_the_page_loads_nothing_and_runs_its_own_script_only(page: Page) -> None:
    for _, attributes in page.tags:
        assert not attributes.keys() & {"href", "action", "data", "srcset"}
        assert str(attributes.get("src", "data:")).startswith("data:")
    (policy,) = (meta["content"] for meta in page.attributes("meta") if "http-equiv" in meta)
    for tag in ("style", "script"):
        digest = b64encode(sha256("".join(page.texts[tag]).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'; img-src data:;" in str(policy)
    assert "://" not in "".join(page.texts["script"] + page.texts["style"])


def test_headings_sort_by_keyboard_too(page: Page) -> None:
    headings = page.attributes("th")
    assert len(headings) == len(page.attributes("button")) > 10
    assert all((heading["scope"], heading["aria-sort"]) == ("col", "none") for heading in headings)


@pytest.mark.usefixtures("_one_figure")
def test_without_html_there_is_no_page(write_run, tmp_path: Path) -> None:
    made = report(write_run("run"), out=tmp_path / "report")
    assert not (made.folder / "report.html").exists()


def test_what_report_returns(made: Report, results) -> None:
    assert repr(made).startswith("Report(Results(16 runs of 8 methods, 2 incomplete), tables: results, diff")
    assert made.tables["results"]["method"].tolist() == made.results.methods.index.tolist()
    assert all(path.is_file() for path in made.figures.values())
    html = made._repr_html_()
    assert list(Page(html).tables) == ["results", "gap", "differences", "hypervolumes"]
    assert Page(results._repr_html_()).tables["results"][1][0] == "naive"
    assert EVIL not in html
    assert EVIL not in made.results._repr_html_()
