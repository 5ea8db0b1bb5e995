import re
from itertools import combinations

import pandas as pd
import pytest
from report.conftest import random_matrix, write_three

from avalanche_mgem.report import load_results
from avalanche_mgem.report.comparisons import by_accuracy, find_fronts
from avalanche_mgem.report.sheets import (
    Sheet,
    differences_sheet,
    hypervolume_sheet,
    pairs_sheets,
    results_sheet,
)
from avalanche_mgem.report.spelling import markdown
from avalanche_mgem.report.tables import differences_table, hypervolumes, results_table


def differences(*corrected: float, n: int = 5) -> Sheet:
    rows = [
        {"metric": "acc", "method": "m", "baseline": "b", "n": n, "difference": -0.0001, "half_width": 0.02,
         "p": 0.0001, "p_corrected": p}
        for p in corrected
    ]  # fmt: skip
    return differences_sheet(pd.DataFrame(rows))


def test_only_the_corrected_p_is_marked() -> None:
    sheet = differences(0.049, 0.05, float("nan"))
    assert [row[-2:] for row in sheet.rows] == [("<0.001", "0.049*"), ("<0.001", "0.050"), ("<0.001", "-")]
    assert "Holm" in sheet.caption


def squares(folder) -> dict[str, Sheet]:
    results = load_results(folder)
    order = by_accuracy(results.runs)
    return pairs_sheets(differences_table(results, list(combinations(order, 2))), order)


def test_all_pairs_are_a_square_above_its_diagonal(tmp_path) -> None:
    sheets = squares(write_three(tmp_path))
    assert list(sheets) == ["ACC of all pairs", "BWD of all pairs", "LA of all pairs"]
    assert [sheet.name for sheet in sheets.values()] == ["pairs_acc", "pairs_bwd", "pairs_la"]
    acc, bwd, _ = sheets.values()
    assert acc.header == ("method", "2", "3")
    assert acc.rows == [
        ("1. dmgem", "+0.030*", "(+0.060)"),
        ("2. pmgem", "", "+0.030*"),
        ("3. gem", "", ""),
    ]
    assert acc.caption == (
        "Row minus column: mean paired difference of ACC at 5 shared seeds; methods in the order of mean ACC."
        " * p < 0.05 of the paired t-test, corrected by Holm over 2 pairs of methods. In parentheses: not "
        "tested (fewer than 5 shared seeds, or equal differences). All numbers are in differences.csv."
    )
    assert [row[1:] for row in bwd.rows] == [("(+0.000)", "(+0.000)"), ("", "(+0.000)"), ("", "")]
    assert "over 0 pairs of methods" in bwd.caption


def test_a_large_corrected_p_has_no_star(tmp_path) -> None:
    table = pd.DataFrame(
        [
            {"metric": "acc", "method": "a", "baseline": "b", "n": 5, "difference": -0.0001, "p_corrected": p}
            for p in (0.049, 0.05)
        ]
    )
    for number, cell in enumerate(("+0.000*", "+0.000")):
        (sheet,) = pairs_sheets(table.iloc[[number]], ["a", "b"]).values()
        assert sheet.rows == [("1. a", cell), ("2. b", "")]
        assert "over 1 pair of methods." in sheet.caption


@pytest.mark.parametrize("seeds", [1, 4])
def test_all_pairs_of_few_seeds_have_no_star(write_run, tmp_path, seeds: int) -> None:
    for seed in range(seeds):
        write_run(f"gem{seed}", "gem", seed)
        write_run(f"pmgem{seed}", "pmgem", seed)
    for sheet in squares(tmp_path).values():
        assert re.fullmatch(r"[+-]0\.\d{3}", sheet.rows[0][1])
        assert f"at {seeds} shared seed{'s' * (seeds > 1)}; " in sheet.caption
        assert "Fewer than 5 shared seeds are not tested, so there is no star." in sheet.caption
        assert "p <" not in sheet.caption
        assert "parentheses" not in sheet.caption


def test_methods_have_one_number_in_all_squares(write_run, tmp_path) -> None:
    """Joint training has no BWD, and the last method shares no seed with the others."""
    for seed in range(6):
        if seed < 5:
            write_run(f"joint{seed}", "joint", seed, matrix=random_matrix(seed, 0.9)[[0, -1]])
        if seed != 1:
            write_run(f"gem{seed}", "gem", seed, matrix=random_matrix(seed, 0.5))
        write_run(f"pmgem{seed}", "pmgem", seed, matrix=random_matrix(10 + seed, 0.5))
    write_run("naive", "naive", 9, matrix=random_matrix(0, 0.1))
    acc, bwd, _ = squares(tmp_path).values()
    assert [row[0].split()[1] for row in acc.rows] == [row[0].split()[1] for row in bwd.rows]
    assert acc.rows[0][0] == "1. joint"
    assert bwd.rows[0][1:] == ("-", "-", "-")
    assert [row[3] for row in acc.rows] == ["-", "-", "-", ""]
    assert "at 4 to 5 shared seeds;" in acc.caption
    assert "- no seed at which both have ACC." in acc.caption


def test_without_five_seeds_a_sentence_stands_for_p_and_stars() -> None:
    sheet = differences(float("nan"), n=4)
    assert sheet.header == ("metric", "method", "baseline", "n", "difference")
    assert sheet.rows == [("ACC", "m", "b", "4", "+0.000 ± 0.020")]
    assert sheet.caption.endswith("Fewer than 5 pairs of seeds are not tested, so there is no p.")
    assert "*" not in markdown(sheet)


@pytest.mark.parametrize("seeds", [4, 5])
def test_fronts_of_few_seeds_have_no_interval(write_run, tmp_path, seeds: int) -> None:
    for seed in range(seeds):
        for gamma in (0, 1):
            write_run(f"{gamma}-{seed}", seed=seed, settings={"memory_strength": gamma})
    results = load_results(tmp_path)
    front = find_fronts(results.methods, [])[0]
    sheet = hypervolume_sheet(hypervolumes(results, front, None, None), front.name)
    assert ("[" in sheet.rows[0][3]) == (seeds == 5)
    assert ("Fewer than 5 seeds are not resampled" in sheet.caption) == (seeds == 4)


def test_no_number_is_minus_zero() -> None:
    assert differences(1.0).rows[0][4] == "+0.000 ± 0.020"


def test_one_seed_has_no_interval(write_run) -> None:
    frame = results_table(load_results(write_run("run")))
    (row,) = results_sheet(frame).rows
    assert row[:2] == ("gem", "1")
    assert row[2] == f"{frame.loc[0, 'acc_mean']:.3f}"
    assert row[-1] == "-"  # the memory is not known
