import shlex
from itertools import combinations

import numpy as np
import pytest
from report.conftest import random_matrix, write_three
from scipy.stats import linregress, ttest_1samp, ttest_rel

from avalanche_mgem.report import load_results, report
from avalanche_mgem.report.comparisons import (
    Baselines,
    Front,
    by_accuracy,
    find_axis,
    find_baselines,
    find_fronts,
    join_fronts,
)
from avalanche_mgem.report.notes import comparison_notes
from avalanche_mgem.report.sheets import gap_sheet, trends_sheet
from avalanche_mgem.report.statistics import holm
from avalanche_mgem.report.tables import differences_table, hypervolumes, results_table, trends_table


def _front(methods):
    (front,) = find_fronts(methods, [])
    return front


def test_means_over_seeds(results) -> None:
    table = results_table(results).set_index("method")
    for method, runs in results.runs.groupby("method"):
        assert table.loc[method, "n"] == 5
        assert table.loc[method, "seeds"] == "0 1 2 3 4"
        assert table.loc[method, "acc_mean"] == pytest.approx(runs["acc"].mean())
        assert table.loc[method, "seconds_train_half_width"] == pytest.approx(2.776445 * 2.5**0.5 / 5**0.5)
        assert np.isnan(table.loc[method, "peak_memory_mb_mean"])


def test_differences_are_paired_and_corrected_for_each_metric(results) -> None:
    baselines = find_baselines(results.methods, None, "naive").of
    table = differences_table(results, baselines.items())
    wide = results.runs.pivot(index="seed", columns="method", values=["acc", "bwd", "la"])
    assert table.groupby("metric").size().to_dict() == {"acc": 6, "bwd": 6, "la": 6}
    for metric, rows in table.groupby("metric"):
        for row in rows.to_dict("records"):
            expected = ttest_rel(wide[metric, row["method"]], wide[metric, "naive"])
            assert row["p"] == pytest.approx(expected.pvalue)
            assert row["n"] == 5
        assert rows["p_corrected"].tolist() == holm(rows["p"].tolist())


def test_all_pairs_are_one_family_for_each_metric(results) -> None:
    order = by_accuracy(results.runs)
    table = differences_table(results, list(combinations(order, 2)))
    wide = results.runs.pivot(index="seed", columns="method", values=["acc", "bwd", "la"])
    assert order == sorted(order, key=lambda method: -wide["acc", method].mean())
    for metric, rows in table.query("metric != 'gap_violated'").groupby("metric"):
        pairs = {frozenset(pair) for pair in zip(rows["method"], rows["baseline"], strict=True)}
        assert len(rows) == len(pairs) == 7 * 6 / 2
        tested = rows[rows["p"].notna()]
        assert len(tested) == 18  # dmgem's accuracy is gem's and .02 at each of the three memory strengths
        expected = [
            ttest_rel(wide[metric, row.method], wide[metric, row.baseline]).pvalue
            for row in tested.itertuples()
        ]
        assert tested["p"].tolist() == pytest.approx(expected)
        # Holm's: 18 times the smallest, 17 times the next or that if it is larger, and so on.
        corrected = np.minimum(np.maximum.accumulate(np.arange(18, 0, -1) * np.sort(expected)), 1)
        assert np.sort(tested["p_corrected"]) == pytest.approx(corrected)
    assert (table.query("metric == 'acc'")["difference"] >= 0).all()


def test_a_pair_by_hand(tmp_path) -> None:
    """Differences of .01 to .05: t is 3 times the root of 2, whose p has a closed form at 4 degrees."""
    results = load_results(write_three(tmp_path))
    order = by_accuracy(results.runs)
    assert order == ["dmgem", "pmgem", "gem"]
    table = differences_table(results, list(combinations(order, 2))).query("metric == 'acc'")
    assert table["method"].tolist() == ["dmgem", "dmgem", "pmgem"]
    assert table["baseline"].tolist() == ["pmgem", "gem", "gem"]
    assert table["difference"].tolist() == pytest.approx([0.03, 0.06, 0.03])
    p = 1 - 0.75 * (18 / 5.5) ** 0.5 * (1 - 18 / 5.5 / 12)
    assert p == pytest.approx(0.01324, abs=1e-5)
    assert table["p"].tolist() == pytest.approx([p, np.nan, p], nan_ok=True)  # equal differences: no test
    assert table["p_corrected"].tolist() == pytest.approx([2 * p, np.nan, 2 * p], nan_ok=True)


def test_all_pairs_are_compared_at_the_seeds_they_share(write_run, tmp_path) -> None:
    """The order is that of the means over all seeds, so the sign at the shared ones can be another."""
    for strategy, accuracies in (("gem", {0: 0.5, 1: 0.9}), ("pmgem", {0: 0.6}), ("dmgem", {2: 0.1})):
        for seed, accuracy in accuracies.items():
            write_run(f"{strategy}{seed}", strategy, seed, matrix=np.full((3, 2), accuracy))
    results = load_results(tmp_path)
    order = by_accuracy(results.runs)
    assert order == ["gem", "pmgem", "dmgem"]
    table = differences_table(results, list(combinations(order, 2))).query("metric == 'acc'")
    assert table["n"].tolist() == [1, 0, 0]
    assert table["difference"].tolist() == pytest.approx([-0.1, np.nan, np.nan], nan_ok=True)
    assert table["seeds_left_out"].tolist() == ["1", "0 1 2", "0 2"]


def test_seconds_are_a_result_only_where_runs_were_alone(write_run, tmp_path) -> None:
    made_by = {
        "naive": None,  # of an older version, which did not record it
        "gem": {"name": "basic", "runs_at_once": 1},
        "dmgem": {"name": "joblib", "runs_at_once": 2},
        "agem": {"name": "ray", "runs_at_once": None},
    }
    for strategy, launcher in made_by.items():
        for seed in (0, 1):
            write_run(f"{strategy}{seed}", strategy, seed, environment=launcher and {"launcher": launcher})
    table = results_table(load_results(tmp_path)).set_index("method")
    assert table["is_timed"].to_dict() == {"naive": True, "gem": True, "agem": False, "dmgem": False}
    busy = results_table(load_results(tmp_path, busy=True))
    assert not busy["is_timed"].any()
    assert busy["seconds_train_mean"].isna().all()
    assert busy["acc_mean"].notna().all()
    for name in ("seconds_train_mean", "seconds_eval_mean", "seconds_data_mean"):
        assert table[name].isna().tolist() == [False, True, False, True]
    assert not table["acc_mean"].isna().any()


def test_one_run_of_several_at_a_time_is_enough_to_leave_seconds_out(write_run, tmp_path) -> None:
    for seed in (0, 1):
        environment = {"launcher": {"name": "joblib", "runs_at_once": 1 + seed}}
        write_run(f"gem{seed}", "gem", seed, environment=environment)
    results = load_results(tmp_path)
    assert results_table(results)["seconds_train_mean"].isna().all()
    assert results.runs["seconds_train"].notna().all()  # what was measured stays


def test_seeds_that_are_not_common_are_named(write_run, tmp_path) -> None:
    for seed in (0, 1, 2):
        write_run(f"gem{seed}", "gem", seed)
    for seed in (1, 2, 5):
        write_run(f"naive{seed}", "naive", seed)
    results = load_results(tmp_path)
    row = differences_table(results, [("naive", "gem")]).iloc[0]
    assert (row["n"], row["seeds"], row["seeds_left_out"]) == (2, "1 2", "0 5")


def test_a_metric_that_a_method_lacks_is_not_compared(write_run, tmp_path) -> None:
    for seed in (0, 1):
        write_run(f"gem{seed}", "gem", seed)
        write_run(f"joint{seed}", "joint", seed, matrix=random_matrix(seed + 9)[[0, -1]])
    table = differences_table(load_results(tmp_path), [("joint", "gem")])
    assert table["metric"].tolist() == ["acc"]


def test_the_front_is_over_the_memory_strength(results) -> None:
    methods = results.methods
    (front,) = find_fronts(methods, [])
    assert front.settings == ("strategy.memory_strength",)
    assert front.families == {
        name: {f"{name} memory_strength={value}": value for value in (0, 0.5, 1)} for name in ("gem", "dmgem")
    }
    assert join_fronts([front]) is front
    assert find_fronts(methods.loc[["naive", "gem memory_strength=0"]], []) == []
    assert join_fronts([]) is None
    with pytest.raises(ValueError, match=r"--front lr: .* settings that do: strategy.memory_strength"):
        find_fronts(methods, ["memory_strength", "lr"])


def test_other_settings_make_other_fronts(write_run, tmp_path) -> None:
    for groups in (2, 4):
        for gamma in (0, 1):
            write_run(f"{groups}-{gamma}", "dmgem", settings={"num_groups": groups, "memory_strength": gamma})
    methods = load_results(tmp_path).methods
    assert list(find_fronts(methods, [])[0].families) == ["dmgem num_groups=2", "dmgem num_groups=4"]
    both = find_fronts(methods, ["num_groups", "memory_strength", "num_groups"])
    assert [front.name for front in both] == ["num_groups", "memory_strength"]
    assert list(both[0].families) == ["dmgem memory_strength=0", "dmgem memory_strength=1"]


def test_fronts_over_two_settings_are_compared(write_run, tmp_path) -> None:
    """The pull of gem and dmgem, and the groups of dmgem: one method is a point of both of its fronts."""
    for seed in range(5):
        for gamma in (0, 1):
            write_run(f"g{gamma}-{seed}", "gem", seed, settings={"memory_strength": gamma, "num_groups": 1})
        for groups, gamma in ((2, 0), (4, 0), (2, 1)):
            settings = {"memory_strength": gamma, "num_groups": groups}
            write_run(
                f"d{groups}-{gamma}-{seed}",
                "dmgem",
                seed,
                settings=settings,
                matrix=random_matrix(seed + 9 * groups),
            )
    results = load_results(tmp_path)
    fronts = find_fronts(results.methods, ["memory_strength", "num_groups"])
    both = join_fronts(fronts)
    assert {name: list(values.values()) for name, values in both.families.items()} == {
        "gem over memory_strength": [0, 1],
        "dmgem num_groups=2 over memory_strength": [0, 1],
        "dmgem memory_strength=0 over num_groups": [2, 4],
    }
    assert (both.name, both.names) == ("memory_strength", "memory_strength or num_groups")
    # Each front has the area that it has alone from the same point.
    volumes = hypervolumes(results, both, "gem over memory_strength", (0.5, -0.5)).table.set_index("front")
    for front in fronts:
        alone = hypervolumes(results, front, None, (0.5, -0.5)).table.set_index("front")["hypervolume"]
        for name in front.curves:
            assert volumes.loc[f"{name} over {front.name}", "hypervolume"] == alone[name]
    differences = volumes["hypervolume"] - volumes.loc["gem over memory_strength", "hypervolume"]
    assert volumes["difference"].drop("gem over memory_strength").tolist() == pytest.approx(
        differences.drop("gem over memory_strength").tolist()
    )


def test_the_baseline_decides_which_front_is_its_own(write_run, tmp_path) -> None:
    """Whatever the order of the settings."""
    for seed in range(5):
        for groups, gamma in ((1, 0), (1, 1), (2, 0), (2, 1), (4, 0)):
            name = "gem" if groups == 1 else "dmgem"
            settings = {"memory_strength": gamma, "num_groups": groups}
            write_run(
                f"{groups}-{gamma}-{seed}", name, seed, settings=settings, matrix=random_matrix(seed + groups)
            )
    for place, order in enumerate((["memory_strength", "num_groups"], ["num_groups", "memory_strength"])):
        made = report(tmp_path, out=tmp_path / f"report{place}", front=order, baseline="gem")
        table = made.tables["hypervolumes"].set_index("front")
        assert np.isnan(table.loc["gem over memory_strength", "difference"])
        assert table["difference"].notna().sum() == 2
        text = (made.folder / "report.md").read_text()
        assert "over memory_strength or num_groups" in text or "over num_groups or memory_strength" in text
        differences = made.tables["differences"].query("metric == 'acc'")
        assert differences["method"].tolist() == [
            f"dmgem memory_strength={g} num_groups=2" for g in (0, 1)
        ] + ["dmgem memory_strength=0 num_groups=4"]
        made = report(tmp_path, out=tmp_path / f"report{place}", front=order, baseline="num_groups=2")
        table = made.tables["hypervolumes"].set_index("front")
        # It is in two fronts. The other of them has a method that is compared with it.
        (own,) = table.index[table["difference"].isna()]
        assert own == "dmgem num_groups=2 over memory_strength"


def test_fronts_over_two_keys_of_one_name_stay_apart() -> None:
    one, two = (Front((key,), {"gem": {"a": 0, "b": 1}}) for key in ("strategy.x", "strategy.plugin.x"))
    assert list(join_fronts([one, two]).families) == ["gem over strategy.x", "gem over strategy.plugin.x"]


def _sizes(write_run, root, seeds=6, sizes=(8, 32, 64), strategies=("gem", "dmgem"), missing=""):
    """Runs of strategies over a setting; accuracies are random."""
    for seed in range(seeds):
        for place, (strategy, size) in enumerate((s, n) for s in strategies for n in sizes):
            if (name := f"{strategy}{size}-{seed}") != missing:
                matrix = random_matrix(97 * seed + place)
                write_run(name, strategy, seed, settings={"patterns_per_exp": size}, matrix=matrix)
    return load_results(root)


def test_the_gap_is_a_mean_over_experiences(write_run, tmp_path) -> None:
    """Empty cells are left out; a difference is over the experiences that both have."""
    for seed in range(5):
        rows = ["experience,gap_violated,gap_depth", "1,0.5,0.1", f"2,{seed / 10},0.3"]
        write_run(f"gem{seed}", "gem", seed, constraints=rows)
        columns = "experience,gap_violated,gap_depth,gap_violated_acting"
        rows = [columns, f"1,{seed / 20},0.1,0.25", "2,,,"]
        write_run(f"dmgem{seed}", "dmgem", seed, constraints=rows)
        rows = ["experience,gap_violated", "1,", f"2,{0.5 * (seed > 1)}" if seed else "2,"]
        write_run(f"pmgem{seed}", "pmgem", seed, constraints=rows)
        write_run(f"naive{seed}", "naive", seed, constraints=["experience,violated_steps", "1,0.5", "2,0.5"])
    results = load_results(tmp_path)
    assert results.gap == ("gap_violated", "gap_depth", "gap_violated_acting")
    table = results_table(results).set_index("method")
    assert table.loc["gem", "gap_violated_mean"] == pytest.approx((0.5 + 0.2) / 2)
    assert table.loc["gem", "gap_depth_mean"] == pytest.approx(0.2)
    assert table.loc["dmgem", "gap_violated_mean"] == pytest.approx(0.1)
    assert np.isnan(table.loc["naive", "gap_violated_mean"])
    rows = {row[0]: row[1:] for row in gap_sheet(results_table(results), results.runs, results.gap).rows}
    assert {name: row[0] for name, row in rows.items()} == {
        "naive": "0",
        "gem": "5",
        "pmgem": "4",
        "dmgem": "5",
    }
    assert rows["naive"][1:] == ("-", "-", "-")
    assert rows["dmgem"][3] == "0.250 ± 0.000"
    compared = [("dmgem", "gem"), ("naive", "gem"), ("pmgem", "gem"), ("dmgem", "pmgem")]
    differences = differences_table(results, compared)
    assert "gap_violated_acting" not in set(differences["metric"])  # dmgem alone has it
    assert "gap_depth" not in set(differences["metric"])  # it says how far, of the same pairs
    rows = differences.query("metric == 'gap_violated'").set_index(["method", "baseline"])
    assert list(rows.index) == [("dmgem", "gem"), ("pmgem", "gem"), ("dmgem", "pmgem")]
    assert rows.loc[("dmgem", "gem"), "difference"] == pytest.approx(0.1 - 0.5)  # experience 1
    assert rows.loc[("pmgem", "gem"), "difference"] == pytest.approx((0 + 3 * 0.5) / 4 - 0.25)  # experience 2
    assert rows.loc[("pmgem", "gem"), "seeds_left_out"] == "0"
    assert rows.loc[("dmgem", "pmgem"), "n"] == 0  # they share no experience


def test_a_trend_is_the_slope_of_the_difference(write_run, tmp_path) -> None:
    """Against SciPy: a regression at each seed, the test of its slopes against 0, and Holm's correction."""
    results = _sizes(write_run, tmp_path, strategies=("gem", "pmgem", "dmgem"), missing="dmgem32-5")
    axis = find_axis(results.methods, ["patterns_per_exp"])
    table = trends_table(results, axis, find_baselines(results.methods, axis, "gem").of)
    assert table["methods"].tolist() == ["pmgem", "dmgem"] * 3
    assert set(table["baseline"]) == {"gem"}
    assert set(table["values"]) == {"8 32 64"}
    assert table["n"].tolist() == [6, 5] * 3
    assert table["seeds_left_out"].tolist() == ["", "5"] * 3
    wide = results.runs.pivot(index="seed", columns="method", values=["acc", "bwd", "la"])
    for metric, rows in table.groupby("metric"):
        for row in rows.to_dict("records"):
            name = row["methods"]
            slopes = [
                linregress(
                    [3, 5, 6],
                    [
                        runs[f"{name} patterns_per_exp={n}"] - runs[f"gem patterns_per_exp={n}"]
                        for n in (8, 32, 64)
                    ],
                ).slope
                for _, runs in wide[metric].iterrows()
            ][: row["n"]]
            expected = ttest_1samp(slopes, 0)
            assert row["slope"] == pytest.approx(np.mean(slopes))
            assert row["p"] == pytest.approx(expected.pvalue)
            interval = expected.confidence_interval()
            assert row["half_width"] == pytest.approx((interval.high - interval.low) / 2)
        assert rows["p_corrected"].tolist() == holm(rows["p"].tolist())


def test_what_is_the_same_at_every_value_has_no_trend(write_run, tmp_path) -> None:
    """Its slope would be rounding, which a t-test can take for a trend."""
    for seed in range(5):
        for strategy in ("gem", "dmgem"):
            matrix = random_matrix(seed + 50 * (strategy == "gem"))
            for size in (8, 32, 64):
                settings = {"patterns_per_exp": size}
                write_run(f"{strategy}{size}-{seed}", strategy, seed, settings=settings, matrix=matrix)
    results = load_results(tmp_path)
    axis = find_axis(results.methods, ["patterns_per_exp"])
    table = trends_table(results, axis, find_baselines(results.methods, axis, "gem").of)
    assert table["slope"].tolist() == [0, 0, 0]
    assert table["p"].isna().all()
    assert trends_sheet(table, "patterns_per_exp").rows[0][5:] == ("+0.0000 ± 0.0000", "-", "-")


def test_a_trend_of_the_gap_is_over_common_experiences(write_run, tmp_path) -> None:
    for seed in range(2):
        for strategy in ("gem", "dmgem", "pmgem"):
            for size in (1, 2, 4):
                first = size / 8 if strategy == "dmgem" and size != 2 else ""
                gap = (
                    0.1 * np.log2(size) + 0.25 if strategy == "dmgem" else "" if strategy == "pmgem" else 0.5
                )
                rows = ["experience,gap_violated", f"1,{first}", f"2,{gap}"]
                settings = {"patterns_per_exp": size}
                write_run(f"{strategy}{size}-{seed}", strategy, seed, settings=settings, constraints=rows)
    results = load_results(tmp_path)
    axis = find_axis(results.methods, ["patterns_per_exp"])
    table = trends_table(results, axis, find_baselines(results.methods, axis, "gem").of)
    (row,) = table.query("metric == 'gap_violated'").to_dict("records")  # pmgem has no such number
    assert (row["methods"], row["n"]) == ("dmgem", 2)
    assert row["slope"] == pytest.approx(0.1)
    sheet = trends_sheet(table, "patterns_per_exp")
    assert sheet.header[-1] == "slope"
    assert sheet.caption.endswith("Fewer than 5 seeds are not tested, so there is no p.")


@pytest.mark.parametrize("sizes", [(8, 32), (8, None, "all"), (0, 8, 32), (False, True, 8, 32)], ids=str)
def test_two_numbers_make_no_trend(write_run, tmp_path, sizes) -> None:
    """Nor what is not a positive number."""
    results = _sizes(write_run, tmp_path, 2, sizes)
    axis = find_axis(results.methods, ["patterns_per_exp"])
    assert len(trends_table(results, axis, find_baselines(results.methods, axis, "gem").of)) == 0


def test_a_baseline_of_another_value_makes_no_trend(write_run, tmp_path) -> None:
    results = _sizes(write_run, tmp_path, 2)
    axis = find_axis(results.methods, ["patterns_per_exp"])
    for baseline in ("patterns_per_exp=8", "gem patterns_per_exp=8"):
        of = find_baselines(results.methods, axis, baseline).of
        assert len(of) > 0
        assert len(trends_table(results, axis, of)) == 0


def test_baselines_are_of_the_same_value(results) -> None:
    methods = results.methods
    front = _front(methods)
    same = {f"dmgem memory_strength={value}": f"gem memory_strength={value}" for value in (0, 0.5, 1)}
    assert find_baselines(methods, front, None).of == find_baselines(methods, front, "gem").of == same
    one = find_baselines(methods, front, "gem memory_strength=1").of
    assert set(one.values()) == {"gem memory_strength=1"}
    assert set(one) == set(methods.index) - {"gem memory_strength=1"}
    assert set(find_baselines(methods, front, "naive").of.values()) == {"naive"}


def test_a_value_of_a_setting_is_a_baseline(results) -> None:
    """Of each strategy its own method with that value; the others have none."""
    found = find_baselines(results.methods, None, "memory_strength=.50")
    assert found.of == {
        f"{name} memory_strength={value}": f"{name} memory_strength=0.5"
        for name in ("gem", "dmgem")
        for value in (0, 1)
    }
    rule = "Each method is compared with the same one at memory_strength=0.5."
    notes = comparison_notes(results, found, None, None)
    assert rule in notes
    assert "No difference to a baseline is made for: naive." in notes
    with pytest.raises(
        ValueError, match=r"^--baseline memory_strength=2: no method .*; there are 0, 0.5, 1$"
    ):
        find_baselines(results.methods, None, "memory_strength=2")
    with pytest.raises(ValueError, match=r"^--baseline gem memory_strength=2: no method is called so; give"):
        find_baselines(results.methods, None, "gem memory_strength=2")


def test_an_axis_has_other_names_in_other_strategies(write_run, tmp_path) -> None:
    for n in (8, None):
        for gamma in (0, 1):
            write_run(f"gem{n}-{gamma}", settings={"patterns_per_step": n, "memory_strength": gamma})
    for n in (8, 64):
        write_run(f"replay{n}", "replay", settings={"plugins": {"replay": {"batch_size_mem": n}}})
    methods = load_results(tmp_path).methods
    axis = find_axis(methods, ["patterns_per_step", "batch_size_mem"])
    assert axis.settings == ("strategy.patterns_per_step", "strategy.plugins.replay.batch_size_mem")
    assert axis.name == "patterns_per_step"
    assert axis.curves == {
        "replay": {f"replay batch_size_mem={n}": n for n in (8, 64)},
        **{
            f"gem memory_strength={gamma}": {
                f"gem memory_strength={gamma} patterns_per_step={word}": n
                for word, n in ((8, 8), ("null", None))
            }
            for gamma in (0, 1)
        },
    }
    with pytest.raises(
        ValueError, match=r"^--over lr: it does not vary within a strategy; settings that do: "
    ):
        find_axis(methods, ["patterns_per_step", "lr"])
    with pytest.raises(ValueError, match=r"^--over .*: gem .* has strategy.memory_strength and strategy.pat"):
        find_axis(methods, ["memory_strength", "patterns_per_step"])


def test_fronts_without_a_common_seed_have_no_hypervolume(write_run, tmp_path) -> None:
    for seed in (0, 1):
        write_run(f"run{seed}", seed=seed, settings={"memory_strength": seed})
    results = load_results(tmp_path)
    front = _front(results.methods)
    assert hypervolumes(results, front, None, None) is None
    notes = comparison_notes(results, Baselines({}), front, None)
    assert any("there are no hypervolumes" in note for note in notes)


def test_without_a_baseline_of_its_value_a_method_has_none(results) -> None:
    methods = results.methods.drop("gem memory_strength=0.5")
    compared = find_baselines(methods, _front(methods), "gem").of
    assert list(compared) == ["dmgem memory_strength=0", "dmgem memory_strength=1"]


def test_unknown_baselines(results) -> None:
    methods = results.methods
    with pytest.raises(
        ValueError,
        match=r"^--baseline ewc: no method is called so; give one of naive, 'gem memory_strength=0', ",
    ):
        find_baselines(methods, None, "ewc")
    with pytest.raises(
        ValueError,
        match=r"^--baseline gem: 3 methods are called so; give one of 'gem memory_strength=0', 'gem",
    ):
        find_baselines(methods, None, "gem")
    with pytest.raises(ValueError, match="--baseline ewc: no method is called so"):
        find_baselines(methods.loc[["naive"]], None, "ewc")


def test_without_a_gem_there_are_no_differences_but_a_sentence(results) -> None:
    methods = results.methods
    two = find_baselines(methods.loc[["naive", "dmgem memory_strength=0"]], None, None)
    assert two.of == {}
    names = "naive, 'dmgem memory_strength=0', or all for all pairs"
    assert two.problem == f"no method is called gem; give --baseline one of {names}"
    several = find_baselines(methods, None, None)
    assert several.of == {}
    assert several.problem.startswith(
        "3 methods are called gem; give --baseline one of 'gem memory_strength=0'"
    )
    alone = find_baselines(methods.loc[["naive"]], None, None)
    assert alone == Baselines({})
    notes = comparison_notes(results, two, None, None)
    assert f"There are no differences to a baseline: {two.problem}." in notes


def test_every_name_that_an_error_lists_is_a_baseline(write_run, tmp_path) -> None:
    """As a shell reads it, whatever is in the name."""
    for place, name in enumerate(("it's", "a  b", 'say "x"', "back\\slash", "gem")):
        for gamma in (0, 1):
            write_run(f"{place}-{gamma}", name, settings={"memory_strength": gamma})
    methods = load_results(tmp_path).methods
    with pytest.raises(ValueError, match="give one of ") as error:
        find_baselines(methods, _front(methods), "absent")
    listed = shlex.split(str(error.value).partition("give one of ")[2].removesuffix(", or all for all pairs"))
    names = [name.removesuffix(",") for name in listed]
    assert names == methods.index.tolist()
    for name in names:
        assert set(find_baselines(methods, None, name).of) == set(names) - {name}


def test_hypervolumes_of_single_points_are_rectangles(write_run, tmp_path) -> None:
    """Two methods of which one dominates: the area is that of the better one's mean above the reference."""
    for seed in range(5):
        for gamma, quality in ((0, 0.5), (1, 0.8)):
            learnt = quality + 0.1 * (seed == 4)
            matrix = np.array([[0.0, 0.0], [learnt, 0.0], [learnt - 0.2 + 0.1 * gamma, learnt]])
            write_run(f"{seed}-{gamma}", "gem", seed, matrix=matrix, settings={"memory_strength": gamma})
    results = load_results(tmp_path)
    front = _front(results.methods)
    row = hypervolumes(results, front, "gem", (0.25, -1.0)).table.iloc[0]
    assert row["hypervolume"] == pytest.approx((0.82 - 0.25) * (1 - 0.1))
    assert (row["points"], row["non_dominated"], row["seeds"]) == (2, 1, "0 1 2 3 4")
    assert row["low"] == pytest.approx((0.8 - 0.25) * 0.9)  # a third of the resamples lack seed 4
    assert np.isnan(row["difference"])
    default = hypervolumes(results, front, None, None)
    assert default.reference == pytest.approx((0.52, -0.2))
    assert default.table.iloc[0]["hypervolume"] == pytest.approx((0.82 - 0.52) * 0.1)


def test_hypervolumes_take_the_seeds_that_all_have(sweep, write_run) -> None:
    write_run("sweep/more", "gem", 7, settings={"memory_strength": 0})
    results = load_results(sweep)
    volumes = hypervolumes(results, _front(results.methods), "gem", None)
    assert (volumes.seeds, volumes.left_out) == ([0, 1, 2], [7])
    table = volumes.table.set_index("front")
    assert table.loc["dmgem", "difference"] == pytest.approx(
        table.loc["dmgem", "hypervolume"] - table.loc["gem", "hypervolume"]
    )
