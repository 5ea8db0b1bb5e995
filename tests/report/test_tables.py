import numpy as np
import pytest
from report.conftest import random_matrix
from scipy.stats import ttest_rel

from avalanche_mgem.report import load_results
from avalanche_mgem.report.comparisons import find_baselines, find_front
from avalanche_mgem.report.notes import comparison_notes
from avalanche_mgem.report.statistics import holm
from avalanche_mgem.report.tables import differences_table, hypervolumes, results_table


def test_means_over_seeds(results) -> None:
    table = results_table(results).set_index("method")
    for method, runs in results.runs.groupby("method"):
        assert table.loc[method, "n"] == 3
        assert table.loc[method, "seeds"] == "0 1 2"
        assert table.loc[method, "acc_mean"] == pytest.approx(runs["acc"].mean())
        assert table.loc[method, "seconds_train_half_width"] == pytest.approx(4.302653 / 3**0.5)
        assert np.isnan(table.loc[method, "peak_memory_mb_mean"])


def test_differences_are_paired_and_corrected_for_each_metric(results) -> None:
    baselines = find_baselines(results.methods, None, "naive")
    table = differences_table(results, baselines)
    wide = results.runs.pivot(index="seed", columns="method", values=["acc", "bwd", "la"])
    assert table.groupby("metric").size().to_dict() == {"acc": 6, "bwd": 6, "la": 6}
    for metric, rows in table.groupby("metric"):
        for row in rows.to_dict("records"):
            expected = ttest_rel(wide[metric, row["method"]], wide[metric, "naive"])
            assert row["p"] == pytest.approx(expected.pvalue)
            assert row["n"] == 3
        assert rows["p_corrected"].tolist() == holm(rows["p"].tolist())


def test_seeds_that_are_not_common_are_named(write_run, tmp_path) -> None:
    for seed in (0, 1, 2):
        write_run(f"gem{seed}", "gem", seed)
    for seed in (1, 2, 5):
        write_run(f"naive{seed}", "naive", seed)
    results = load_results(tmp_path)
    row = differences_table(results, {"naive": "gem"}).iloc[0]
    assert (row["n"], row["seeds"], row["seeds_left_out"]) == (2, "1 2", "0 5")


def test_a_metric_that_a_method_lacks_is_not_compared(write_run, tmp_path) -> None:
    for seed in (0, 1):
        write_run(f"gem{seed}", "gem", seed)
        write_run(f"joint{seed}", "joint", seed, matrix=random_matrix(seed + 9)[[0, -1]])
    table = differences_table(load_results(tmp_path), {"joint": "gem"})
    assert table["metric"].tolist() == ["acc"]


def test_the_front_is_over_the_memory_strength(results) -> None:
    methods = results.methods
    front = find_front(methods, None)
    assert front.setting == "strategy.memory_strength"
    assert front.families == {
        name: [f"{name} memory_strength={value}" for value in (0, 0.5, 1)] for name in ("gem", "dmgem")
    }
    assert find_front(methods.loc[["naive", "gem memory_strength=0"]], None) is None
    with pytest.raises(ValueError, match=r"--front lr: .* settings that do: strategy.memory_strength"):
        find_front(methods, "lr")


def test_other_settings_make_other_fronts(write_run, tmp_path) -> None:
    for groups in (2, 4):
        for gamma in (0, 1):
            write_run(f"{groups}-{gamma}", "dmgem", settings={"num_groups": groups, "memory_strength": gamma})
    methods = load_results(tmp_path).methods
    assert list(find_front(methods, None).families) == ["dmgem num_groups=2", "dmgem num_groups=4"]
    assert list(find_front(methods, "num_groups").families) == [
        "dmgem memory_strength=0",
        "dmgem memory_strength=1",
    ]


def test_baselines_are_of_the_same_value(results) -> None:
    methods = results.methods
    front = find_front(methods, None)
    same = {f"dmgem memory_strength={value}": f"gem memory_strength={value}" for value in (0, 0.5, 1)}
    assert find_baselines(methods, front, None) == find_baselines(methods, front, "gem") == same
    one = find_baselines(methods, front, "gem memory_strength=1")
    assert set(one.values()) == {"gem memory_strength=1"}
    assert set(one) == set(methods.index) - {"gem memory_strength=1"}
    assert set(find_baselines(methods, front, "naive").values()) == {"naive"}


def test_fronts_without_a_common_seed_have_no_hypervolume(write_run, tmp_path) -> None:
    for seed in (0, 1):
        write_run(f"run{seed}", seed=seed, settings={"memory_strength": seed})
    results = load_results(tmp_path)
    front = find_front(results.methods, None)
    assert hypervolumes(results, front, None, None) is None
    assert any("there are no hypervolumes" in note for note in comparison_notes(results, {}, front, None))


def test_without_a_baseline_of_its_value_a_method_has_none(results) -> None:
    methods = results.methods.drop("gem memory_strength=0.5")
    compared = find_baselines(methods, find_front(methods, None), "gem")
    assert list(compared) == ["dmgem memory_strength=0", "dmgem memory_strength=1"]


def test_unknown_baselines(results) -> None:
    methods = results.methods
    with pytest.raises(
        ValueError, match="--baseline ewc: no method is called so; give --baseline one of 'naive', "
    ):
        find_baselines(methods, None, "ewc")
    with pytest.raises(
        ValueError, match="'gem' is the name of 3 methods; give --baseline one of 'gem memory_str"
    ):
        find_baselines(methods, None, None)
    two = methods.loc[["naive", "dmgem memory_strength=0"]]
    with pytest.raises(
        ValueError, match="there is no gem to compare with; give --baseline one of 'naive', 'dmgem"
    ):
        find_baselines(two, None, None)
    assert find_baselines(methods.loc[["naive"]], None, None) == {}


def test_hypervolumes_of_single_points_are_rectangles(write_run, tmp_path) -> None:
    """Two methods of which one dominates: the area is that of the better one's mean above the reference."""
    for seed in (0, 1):
        for gamma, quality in ((0, 0.5), (1, 0.8)):
            learnt = quality + 0.1 * seed
            matrix = np.array([[0.0, 0.0], [learnt, 0.0], [learnt - 0.2 + 0.1 * gamma, learnt]])
            write_run(f"{seed}-{gamma}", "gem", seed, matrix=matrix, settings={"memory_strength": gamma})
    results = load_results(tmp_path)
    front = find_front(results.methods, None)
    row = hypervolumes(results, front, "gem", (0.25, -1.0)).table.iloc[0]
    assert row["hypervolume"] == pytest.approx((0.85 - 0.25) * (1 - 0.1))
    assert (row["points"], row["non_dominated"], row["seeds"]) == (2, 1, "0 1")
    assert row["low"] == pytest.approx((0.8 - 0.25) * 0.9)
    assert np.isnan(row["difference"])
    default = hypervolumes(results, front, None, None)
    assert default.reference == pytest.approx((0.55, -0.2))
    assert default.table.iloc[0]["hypervolume"] == pytest.approx((0.85 - 0.55) * 0.1)


def test_hypervolumes_take_the_seeds_that_all_have(sweep, write_run) -> None:
    write_run("sweep/more", "gem", 7, settings={"memory_strength": 0})
    results = load_results(sweep)
    volumes = hypervolumes(results, find_front(results.methods, None), "gem", None)
    assert (volumes.seeds, volumes.left_out) == ([0, 1, 2], [7])
    table = volumes.table.set_index("front")
    assert table.loc["dmgem", "difference"] == pytest.approx(
        table.loc["dmgem", "hypervolume"] - table.loc["gem", "hypervolume"]
    )
