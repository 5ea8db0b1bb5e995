"""The page in a real browser: ``make test-browser``, which needs chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from avalanche_mgem.report import report

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--virtual-time-budget=3000", "--window-size=1100,1600"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from report.conftest import write_sweep

    root = tmp_path_factory.mktemp("browser")
    return report(write_sweep(root), out=root / "report", html=True).folder / "report.html"


def opened(page: Path, fragment: str, *arguments: str) -> str:
    """The page as the browser has it once its script has run."""
    assert CHROMIUM is not None, "make test-browser needs chromium (Debian: apt-get install chromium)"
    profile = page.parent.parent / "profile"
    command = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={profile}", *arguments, f"{page.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "Content Security Policy" not in done.stderr
    return done.stdout


def column(dom: str, table: str, number: int) -> list[str]:
    body = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body[1], re.DOTALL)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row)[number] for row in rows]


def test_a_click_sorts_and_one_more_turns_it_round(page: Path) -> None:
    as_written = column(opened(page, "", "--dump-dom"), "results", 2)
    numbers = [float(cell.split()[0]) for cell in as_written]
    assert numbers != sorted(numbers)
    dom = opened(page, "#sort=results,2", "--dump-dom")
    assert [float(cell.split()[0]) for cell in column(dom, "results", 2)] == sorted(numbers)
    assert re.findall(r'<th [^>]*aria-sort="ascending"[^>]*><button>(\w+)<', dom) == ["ACC"]
    assert column(dom, "differences", 1) == column(opened(page, "#sort=x,9", "--dump-dom"), "differences", 1)
    dom = opened(page, "#sort=results,2,descending", "--dump-dom")
    assert [float(cell.split()[0]) for cell in column(dom, "results", 2)] == sorted(numbers, reverse=True)
    dom = opened(page, "#sort=hypervolumes,4", "--dump-dom")
    assert column(dom, "hypervolumes", 4)[-1] == "-"  # what is not there is last
    dom = opened(page, "#sort=results,0,descending", "--dump-dom")
    assert column(dom, "results", 0)[0] == "naive"


def test_a_square_of_all_pairs_is_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from report.conftest import write_one_figure, write_three

    monkeypatch.setattr("avalanche_mgem.report.write.write_figures", write_one_figure)
    made = report(write_three(tmp_path), out=tmp_path / "report", baseline="all", html=True)
    dom = opened(made.folder / "report.html", "#sort=pairs_acc,2,descending", "--dump-dom")
    assert column(dom, "pairs_acc", 2) == ["(+0.060)", "+0.030*", ""]


def test_the_page_is_drawn(page: Path) -> None:
    picture = page.parent.parent / "page.png"
    opened(page, "#sort=results,2", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000  # an empty page has less
