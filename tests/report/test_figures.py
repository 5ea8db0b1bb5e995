import itertools
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from report.conftest import random_matrix

from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.report import figures as drawings
from avalanche_mgem.report import fronts, load_results
from avalanche_mgem.report.comparisons import find_axis, find_fronts, join_fronts
from avalanche_mgem.report.curves import average_accuracy_figure, constraint_figures
from avalanche_mgem.report.figures import write_figures
from avalanche_mgem.report.fronts import front_figure
from avalanche_mgem.report.heatmaps import matrix_figures
from avalanche_mgem.report.over import over_figure
from avalanche_mgem.report.style import SETTINGS, looks, rank

KNOWN = sorted(path.stem for path in (config_folder() / "strategy").glob("*.yaml"))


SAME = random_matrix(0)


@pytest.fixture(scope="module")
def figures(results) -> dict[str, Figure]:
    with mpl.rc_context(SETTINGS):
        return {
            "front": front_figure(results, find_fronts(results.methods, [])[0]),
            "over": over_figure(results, find_axis(results.methods, ["memory_strength"])),
            "accuracy": average_accuracy_figure(results),
            **matrix_figures(results),
            **constraint_figures(results),
        }


def test_the_figures_that_the_results_allow(results, tmp_path: Path, write_run) -> None:
    captions = write_figures(results, find_fronts(results.methods, [])[0], tmp_path)
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
    few = drawings._draw(load_results(write_run("one")), None, ())
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
    whole, *own = ([label.get_text() for label in axes.texts] for axes in figures["front"].axes)
    assert own == [["0", "0.5", "1"]] * 2
    assert sorted(whole) == ["0", "0", "0.5", "0.5", "1", "1"]  # both fronts, where there is room
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for label in labels:
        points = label.axes.transData.transform([other.xy for other in labels if other.axes is label.axes])
        assert not any(label.get_window_extent(renderer).contains(*point) for point in points)


def test_the_panel_of_all_fronts_leaves_out_values_that_would_cover_others(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for strategy in ("gem", "dmgem"):
        for gamma in (0, 1):
            write_run(f"{strategy}{gamma}", strategy, matrix=SAME, settings={"memory_strength": gamma})
    results = load_results(tmp_path)
    monkeypatch.setattr(fronts, "_PLACES", [(12, 0)])  # the only place for a value, and all points are one
    whole, *own = front_figure(results, find_fronts(results.methods, [])[0]).axes
    assert [len(axes.texts) for axes in own] == [2, 2]
    assert len(whole.texts) == 1


def test_titles_of_joined_fronts_stand_apart(write_run, tmp_path: Path) -> None:
    for groups, gamma in ((2, 0), (2, 0.05), (2, 1), (4, 0), (8, 0)):
        for strategy in ("gem", "dmgem"):
            settings = {"memory_strength": gamma, "num_groups": groups}
            matrix = random_matrix(groups + int(9 * gamma))
            write_run(f"{strategy}{groups}-{gamma}", strategy, matrix=matrix, settings=settings)
    results = load_results(tmp_path)
    with mpl.rc_context(SETTINGS):
        both = join_fronts(find_fronts(results.methods, ["memory_strength", "num_groups"]))
        figure = front_figure(results, both)
        whole, *panels = figure.axes
        assert [axes.get_title() for axes in panels[:2]] == [
            "gem num_groups=2\nover memory_strength",
            "dmgem num_groups=2\nover memory_strength",
        ]
        assert [text.get_text() for text in whole.get_legend().get_texts()] == list(both.families)
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes]
    assert len(panels) == 4
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


def test_the_front_shows_the_means(results, figures) -> None:
    runs = results.runs
    means = runs[runs["strategy"] == "dmgem"].groupby("method", sort=False)[["la", "bwd"]].mean().to_numpy()
    axes = figures["front"].axes[0]
    (line,) = [line for line in axes.get_lines() if line.get_label() == "dmgem"]
    np.testing.assert_allclose(line.get_xydata(), means)
    assert line.get_color() == looks({"dmgem": "dmgem"})["dmgem"].colour


def test_a_setting_is_drawn_over_its_values_in_their_order(results, figures, write_run, tmp_path) -> None:
    acc, bwd, la, seconds = figures["over"].axes
    assert [label.get_text() for label in acc.get_xticklabels()] == ["0", "0.5", "1"]
    runs = results.runs[results.runs["strategy"] == "dmgem"].groupby("method", sort=False)
    for axes, metric in ((acc, "acc"), (bwd, "bwd"), (la, "la")):
        (line,) = [line for line in axes.get_lines() if line.get_label() == "dmgem"]
        np.testing.assert_allclose(line.get_xydata(), list(enumerate(runs[metric].mean())))
    (line,) = [line for line in seconds.get_lines() if line.get_label() == "dmgem"]
    means = runs[["seconds_train", "acc"]].mean().to_numpy()
    np.testing.assert_allclose(line.get_xydata(), means)
    # A value of another strategy's lies between, words come last, and shared machines have no seconds.
    for name, strategy, n in (("a", "gem", 8), ("b", "gem", None), ("c", "agem", 8), ("d", "agem", 16)):
        key = "patterns_per_step" if strategy == "gem" else "sample_size"
        shared = {"launcher": {"runs_at_once": 2}} if name == "d" else {}
        write_run(name, strategy, settings={key: n}, environment=shared)
    few = load_results(tmp_path)
    with mpl.rc_context(SETTINGS):
        figure = over_figure(few, find_axis(few.methods, ["patterns_per_step", "sample_size"]))
    assert len(figure.axes) == 3
    assert figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).x1 < figure.get_size_inches()[0]
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["8", "16", "null"]
    (gem,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "gem"]
    assert gem.get_xdata().tolist() == [0, 2]


def test_accuracy_is_the_mean_over_what_was_trained(write_run) -> None:
    matrix = random_matrix(3)
    results = load_results(write_run("run", matrix=matrix))
    (line,) = average_accuracy_figure(results).axes[0].get_lines()
    expected = [matrix[after, :after].mean() for after in (1, 2, 3)]
    # After experience 0, 1 and 2.
    np.testing.assert_allclose(line.get_xydata(), list(zip((0, 1, 2), expected, strict=True)))


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
    np.testing.assert_allclose(lines[0].get_xydata(), [(1, 0.5), (2, 0.75)])
    np.testing.assert_allclose(figures["gap_violated"].axes[0].get_lines()[0].get_xydata(), [(2, 0.25)])


def test_strategies_keep_their_look(figures, write_run, tmp_path: Path) -> None:
    """In a panel with others, and in a report of their own."""
    write_run("gem", "gem")
    alone = average_accuracy_figure(load_results(tmp_path))
    gem = looks({"gem": "gem"})["gem"]
    for figure in (alone, figures["accuracy"], figures["violated_steps"]):
        lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == gem.marker]
        assert lines[0].get_color() == gem.colour
        assert not lines[0].is_dashed()


def test_strategies_of_one_method_share_a_panel(write_run, tmp_path: Path) -> None:
    for strategy in KNOWN:
        write_run(strategy, strategy)
    figure = average_accuracy_figure(load_results(tmp_path))
    (axes,), (legend,) = figure.axes, figure.legends
    assert len(axes.get_lines()) == len(legend.get_texts()) == len(KNOWN)


@pytest.mark.parametrize("name", ["gem", "dmgem_budget", "mmmmmmmmmmmm", "dmgem_budget_of_all", "m" * 24])
def test_a_legend_is_no_wider_than_its_figure(name: str, write_run, tmp_path: Path) -> None:
    for number in range(4):
        write_run(f"run{number}", f"{name}{number}")
    with mpl.rc_context(SETTINGS):
        figure = average_accuracy_figure(load_results(tmp_path))
        figure.draw_without_rendering()  # places what the layout moves
        drawn = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())
    assert drawn.x0 > 0
    assert drawn.x1 < figure.get_size_inches()[0]


@pytest.mark.parametrize("strategies", [("dmgem",), ("gem", "dmgem")], ids=len)
def test_long_labels_leave_the_panel_its_height(strategies, write_run, tmp_path: Path) -> None:
    """Each label takes two lines."""
    for strategy in strategies:
        for number in range(10):
            settings = {"grouping": "stratified", "memory_strength": number / 16, "num_groups": number + 2}
            settings["grouping"] += str(number)
            write_run(f"{strategy}{number}", strategy, settings=settings)
    with mpl.rc_context(SETTINGS):
        figure = average_accuracy_figure(load_results(tmp_path))
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        drawn = figure.get_tightbbox(renderer)
    for axes in figure.axes:
        assert all("\n" in text.get_text() for text in axes.get_legend().get_texts())
        assert axes.get_window_extent(renderer).height > 1.5 * figure.dpi
    assert (drawn.y0 > 0, drawn.y1 < figure.get_size_inches()[1]) == (True, True)


def test_more_methods_have_a_panel_for_each_strategy(write_run, tmp_path: Path) -> None:
    for strategy in ("gem", "dmgem"):
        for gamma in range(4):
            write_run(f"{strategy}{gamma}", strategy, settings={"memory_strength": gamma})
    gem, dmgem = average_accuracy_figure(load_results(tmp_path)).axes
    assert (gem.get_title(), dmgem.get_title()) == ("gem", "dmgem")
    labels = [text.get_text() for text in gem.get_legend().get_texts()]
    assert labels == [f"memory_strength={gamma}" for gamma in range(4)]
    dashes = {str(line._dash_pattern) for line in gem.get_lines()}
    assert len(dashes) == len({line.get_color() for line in gem.get_lines()}) == 4


def test_every_strategy_of_the_command_has_a_look_of_its_own() -> None:
    found = looks({name: name for name in KNOWN})
    assert all(rank(name)[0] < len(KNOWN) for name in KNOWN)
    assert len({each.marker for each in found.values()}) == len(KNOWN)
    assert len({(each.colour, each.dashes) for each in found.values()}) == len(KNOWN)
    assert sorted(["zeta", "gem", "alpha", "naive"], key=rank) == ["naive", "gem", "alpha", "zeta"]


@example(["mine0", "mine0", *["mine10"] * 4])  # a tint of black is one of grey
@given(st.lists(st.sampled_from([*KNOWN, *(f"mine{n}" for n in range(12))]), max_size=30).map(sorted))
def test_no_two_methods_share_a_colour_and_dashes(strategies: list[str]) -> None:
    methods = {f"{strategy} {number}": strategy for number, strategy in enumerate(strategies)}
    found = looks(methods)
    assert list(found) == list(methods)
    assert len({(each.colour, each.dashes) for each in found.values()}) == len(methods)


def test_second_methods_of_one_colour_have_other_dashes() -> None:
    """As of EWC and Avalanche's GEM, whose tints are equal too."""
    methods = {f"{strategy} {n}": strategy for strategy in ("ewc", "avalanche_gem") for n in range(3)}
    found = looks(methods)
    assert len({each.dashes for each in found.values()}) == 6
    assert found["ewc 1"].colour == found["avalanche_gem 1"].colour


def test_a_tuned_strategy_looks_like_itself_where_that_is_not_there() -> None:
    gem, mine = looks({"gem": "gem"})["gem"], looks({"best_mine": "best_mine"})["best_mine"]
    found = looks({name: name for name in ("best_gem", "best_mine", "replay")})
    assert found["best_gem"] == gem
    assert found["best_mine"] == mine
    both = looks({name: name for name in ("best_gem", "gem")})
    assert both["gem"] == gem
    assert (both["best_gem"].colour, both["best_gem"].dashes) != (gem.colour, gem.dashes)
    assert rank("best_gem")[0] == rank("gem")[0]


def test_the_look_of_an_unknown_strategy_is_that_of_its_name() -> None:
    alone = looks({"mine": "mine"})["mine"]
    known = looks({name: name for name in KNOWN})
    assert looks({"gem": "gem", "mine": "mine"})["mine"] == alone
    assert (alone.colour, alone.dashes) not in {(each.colour, each.dashes) for each in known.values()}
    assert alone.marker not in {each.marker for each in known.values()}


def bands(axes) -> list[str]:
    """Colours of the bands of a panel."""
    return [to_hex(band.get_facecolor()[0]) for band in axes.collections]


def test_six_methods_of_a_panel_have_bands_the_baseline_among_them(write_run, tmp_path: Path) -> None:
    for strategy in KNOWN:
        for seed in (0, 1):
            write_run(f"{strategy}{seed}", strategy, seed)
    results = load_results(tmp_path)
    colours = {name: each.colour.lower() for name, each in looks({name: name for name in KNOWN}).items()}
    order = results.methods.index.tolist()
    (axes,) = average_accuracy_figure(results).axes
    assert len(axes.get_lines()) == len(KNOWN)
    assert bands(axes) == [colours[name] for name in order[:6]]
    (axes,) = average_accuracy_figure(results, {"joint"}).axes
    assert bands(axes) == [colours[name] for name in [*order[:5], "joint"]]


def test_bands_stay_inside_the_frame(write_run, tmp_path: Path) -> None:
    """Shares are from 0 to 1, though an interval of Student's t is not."""
    for seed, value in enumerate((0.02, 0.5, 1.0)):
        rows = ["experience,violated_steps", f"1,{value}", f"2,{value}"]
        write_run(f"gem{seed}", seed=seed, constraints=rows)
    (axes,) = constraint_figures(load_results(tmp_path))["violated_steps"].axes
    (band,) = axes.collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == (0, 1)
    low, high = axes.get_ylim()
    assert low < 0 < 1 < high


def test_panels_that_share_an_axis_show_all_of_each(write_run, tmp_path: Path) -> None:
    highest = {"gem": 0.2, "pmgem": 0.9, "dmgem": 0.4}
    for strategy, value in highest.items():
        for gamma in range(3):
            rows = ["experience,violated_steps", "1,0.1", f"2,{value}"]
            settings = {"memory_strength": gamma}
            write_run(f"{strategy}{gamma}", strategy, settings=settings, constraints=rows)
    figure = constraint_figures(load_results(tmp_path))["violated_steps"]
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 3
    for axes in panels:
        low, high = axes.get_ylim()
        assert low < 0.1 < 0.9 < high


def test_panels_above_an_empty_place_have_their_numbers(write_run, tmp_path: Path) -> None:
    """Of four panels in rows of three, the second and third have nothing below them."""
    for strategy in ("naive", "ewc", "gem", "dmgem"):
        for gamma in range(3):
            write_run(f"{strategy}{gamma}", strategy, settings={"memory_strength": gamma})
    results = load_results(tmp_path)
    figure = average_accuracy_figure(results)
    (matrices, *_) = matrix_figures(results).values()  # six panels in rows of four
    for drawn, shown in ((figure, [False, True, True, True]), (matrices, [False, False, *[True] * 4])):
        FigureCanvasAgg(drawn).draw()
        panels = [axes for axes in drawn.axes if axes.axison and axes.get_title()]
        labels = [any(tick.label1.get_visible() for tick in axes.xaxis.get_major_ticks()) for axes in panels]
        assert labels == shown
    assert [bool(axes.get_xlabel()) for axes in figure.axes if axes.axison] == [False, True, True, True]


@pytest.mark.parametrize("experiences", [1, 3, 10, 11])
def test_matrices_have_numbers_up_to_ten_experiences(write_run, tmp_path: Path, experiences: int) -> None:
    matrix = random_matrix(0, experiences=experiences)
    write_run("gem", matrix=matrix)
    figure = matrix_figures(load_results(tmp_path))["accuracy_matrices"]
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    if experiences > 10:
        assert not texts
        return
    expected = {(j, i - 1): f"{value:.2f}".removeprefix("0") for (i, j), value in np.ndenumerate(matrix)}
    assert texts == expected
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    low, high = axes.get_xlim()
    assert (low, high) == (-0.5, experiences - 0.5)  # counted from 0


def test_rows_of_matrices_are_after_which_experience(figures) -> None:
    axes = figures["accuracy_matrices"].axes[0]
    FigureCanvasAgg(figures["accuracy_matrices"]).draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["none", "0", "1", "2"]


def test_captions_and_axes_are_words(figures) -> None:
    for figure in figures.values():
        for axes in figure.axes:
            assert not re.search(r"\bthem\b", axes.get_ylabel() + axes.get_xlabel())
    assert figures["accuracy"].axes[0].get_ylabel() == "mean accuracy on the\nexperiences so far"
    assert figures["accuracy"].axes[0].get_xlabel() == "after experience"


def test_the_same_results_give_the_same_bytes(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = load_results(write_run("run"))
    monkeypatch.setattr(drawings, "matrix_figures", lambda _: {})  # of one figure as of all
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_figures(results, None, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_benchmark_of_one_experience(write_run, tmp_path: Path) -> None:
    write_run("run", matrix=np.array([[0.1], [0.9]]))
    drawn = drawings._draw(load_results(tmp_path / "run"), None, ())
    assert len(drawn) == 2
    for figure, _ in drawn.values():
        figure.draw_without_rendering()
