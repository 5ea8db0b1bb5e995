import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from report.conftest import random_matrix

from avalanche_mgem.report import load_results
from avalanche_mgem.report.comparisons import find_front
from avalanche_mgem.report.curves import average_accuracy_figure, constraint_figures
from avalanche_mgem.report.figures import write_figures
from avalanche_mgem.report.fronts import front_figure
from avalanche_mgem.report.heatmaps import matrix_figures
from avalanche_mgem.report.style import SETTINGS, look, rank

KNOWN = (
    *("naive", "joint", "cumulative", "replay", "ewc", "si", "lwf", "er_ace", "agem"),
    *("gem", "pmgem", "dmgem", "pdmgem", "avalanche_gem"),
)


@pytest.fixture(scope="module")
def figures(results) -> dict[str, Figure]:
    with mpl.rc_context(SETTINGS):
        return {
            "front": front_figure(results, find_front(results.methods, None)),
            "accuracy": average_accuracy_figure(results),
            **matrix_figures(results),
            **constraint_figures(results),
        }


def test_the_figures_that_the_results_allow(results, tmp_path: Path, write_run) -> None:
    captions = write_figures(results, find_front(results.methods, None), tmp_path)
    names = [
        "front_memory_strength",
        "average_accuracy",
        "accuracy_matrices",
        "violated_steps",
        "gap_violated",
    ]
    assert list(captions) == names
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        pdf = (tmp_path / f"{name}.pdf").read_bytes()
        assert b"/Type3" not in pdf  # fonts as drawings
        assert b"/FontFile2" in pdf
        assert b"/CreationDate" not in pdf
    (tmp_path / "few").mkdir()
    few = write_figures(load_results(write_run("one")), None, tmp_path / "few")
    assert list(few) == ["average_accuracy", "accuracy_matrices"]


def test_nothing_is_cut_off_or_covered(figures) -> None:
    """What is drawn lies within the figure, and that of one panel does not reach into another's."""
    for name, figure in figures.items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
        assert drawn.x0 > 0, name
        assert drawn.y0 > 0, name
        assert drawn.x1 < width, name
        assert drawn.y1 < height, name
        panels = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(panels, 2)), name


def test_values_on_a_front_cover_neither_points_nor_each_other(figures) -> None:
    renderer = FigureCanvasAgg(figures["front"]).get_renderer()
    labels = [label for axes in figures["front"].axes for label in axes.texts]
    assert sorted(label.get_text() for label in labels) == ["0", "0", "0.5", "0.5", "1", "1"]
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for label in labels:
        points = label.axes.transData.transform([other.xy for other in labels if other.axes is label.axes])
        assert not any(label.get_window_extent(renderer).contains(*point) for point in points)


def test_the_front_shows_the_means(results, figures) -> None:
    runs = results.runs
    means = runs[runs["strategy"] == "dmgem"].groupby("method", sort=False)[["la", "bwd"]].mean().to_numpy()
    axes = figures["front"].axes[0]
    (line,) = [line for line in axes.get_lines() if line.get_label() == "dmgem"]
    np.testing.assert_allclose(line.get_xydata(), means)
    assert line.get_color() == look("dmgem").colour


def test_accuracy_is_the_mean_over_what_was_trained(write_run) -> None:
    matrix = random_matrix(3)
    results = load_results(write_run("run", matrix=matrix))
    (line,) = average_accuracy_figure(results).axes[0].get_lines()
    expected = [matrix[after, :after].mean() for after in (1, 2, 3)]
    np.testing.assert_allclose(line.get_xydata(), list(zip((1, 2, 3), expected, strict=True)))


def test_matrices_are_means_over_seeds(write_run, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(f"gem{seed}", seed=seed, matrix=random_matrix(seed))
    write_run("joint", "joint", matrix=random_matrix(2)[[0, -1]])
    (figure,) = matrix_figures(load_results(tmp_path)).values()
    gem, joint = (axes.images[0].get_array() for axes in figure.axes[:2])
    np.testing.assert_allclose(gem, (random_matrix(0) + random_matrix(1)) / 2)
    np.testing.assert_allclose(joint[[0, -1]], random_matrix(2)[[0, -1]])
    assert joint.shape == gem.shape
    assert np.ma.getmaskarray(joint)[1:-1].all()


def test_many_methods_take_several_figures(write_run, tmp_path: Path) -> None:
    for gamma in range(9):
        write_run(f"run{gamma}", settings={"memory_strength": gamma})
    figures = matrix_figures(load_results(tmp_path))
    assert list(figures) == ["accuracy_matrices_1", "accuracy_matrices_2"]
    titles = [axes.get_title() for figure in figures.values() for axes in figure.axes if axes.get_title()]
    assert titles == [f"gem\nmemory_strength={gamma}" for gamma in range(9)]


def test_constraints_by_experience(figures) -> None:
    lines = figures["violated_steps"].axes[0].get_lines()
    assert len(lines) == 6
    np.testing.assert_allclose(lines[0].get_xydata(), [(2, 0.5), (3, 0.75)])
    np.testing.assert_allclose(figures["gap_violated"].axes[0].get_lines()[0].get_xydata(), [(3, 0.25)])


def test_strategies_keep_their_look(figures, write_run, tmp_path: Path) -> None:
    """In a panel with others, and in a report of their own."""
    write_run("gem", "gem")
    alone = average_accuracy_figure(load_results(tmp_path))
    for figure in (alone, figures["accuracy"], figures["violated_steps"]):
        lines = [
            line
            for axes in figure.axes
            for line in axes.get_lines()
            if line.get_marker() == look("gem").marker
        ]
        assert lines[0].get_color() == to_rgb(look("gem").colour)
        assert lines[0].get_linestyle() == look("gem").line


def test_strategies_of_one_method_share_a_panel(write_run, tmp_path: Path) -> None:
    for strategy in KNOWN:
        write_run(strategy, strategy)
    (axes,) = average_accuracy_figure(load_results(tmp_path)).axes
    assert len(axes.get_lines()) == len(axes.get_legend().get_texts()) == len(KNOWN)


def test_more_methods_have_a_panel_for_each_strategy(write_run, tmp_path: Path) -> None:
    for strategy in ("gem", "dmgem"):
        for gamma in range(4):
            write_run(f"{strategy}{gamma}", strategy, settings={"memory_strength": gamma})
    gem, dmgem = average_accuracy_figure(load_results(tmp_path)).axes
    assert (gem.get_title(), dmgem.get_title()) == ("gem", "dmgem")
    labels = [text.get_text() for text in gem.get_legend().get_texts()]
    assert labels == [f"memory_strength={gamma}" for gamma in range(4)]
    dashes = {line.get_linestyle() + str(line._dash_pattern) for line in gem.get_lines()}
    assert len(dashes) == len({line.get_color() for line in gem.get_lines()}) == 4


def test_looks_differ_in_colour_and_in_print() -> None:
    looks = [look(name) for name in KNOWN]
    assert len({each.marker for each in looks}) == len(KNOWN)
    assert len({(each.colour, each.line) for each in looks}) == len(KNOWN)
    assert look("my_own") == look("my_own")
    assert look("my_own").marker not in {each.marker for each in looks}
    assert sorted(["zeta", "gem", "alpha", "naive"], key=rank) == ["naive", "gem", "alpha", "zeta"]


def test_the_same_results_give_the_same_bytes(write_run, tmp_path: Path) -> None:
    results = load_results(write_run("run"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_figures(results, None, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_benchmark_of_one_experience(write_run, tmp_path: Path) -> None:
    write_run("run", matrix=np.array([[0.1], [0.9]]))
    assert write_figures(load_results(tmp_path / "run"), None, tmp_path)
