import json
import re
from itertools import combinations

import pandas as pd
import pytest
from report.conftest import random_matrix, write_three

from avalanche_mgem.report import load_results
from avalanche_mgem.report.comparisons import by_accuracy, find_front
from avalanche_mgem.report.sheets import (
    Sheet,
    differences_sheet,
    hypervolume_sheet,
    latex,
    markdown,
    pairs_sheets,
    print_results,
    results_sheet,
)
from avalanche_mgem.report.tables import differences_table, hypervolumes, results_table

NASTY = r"a_b & 5% of $x$ #1 {y} ~z^2 \n <c> | d*"


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
    front = find_front(results.methods, None)
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


def test_latex_has_no_special_character_left() -> None:
    text = latex(Sheet("t", NASTY, ("method", "x"), [(NASTY, "-0.5 ± 0.1"), ("semi-supervised", "+1")]))
    body = text.partition(r"\begin{tabular}{lr}")[2]
    bare = re.sub(
        r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$(?:\\pm|[-+])\$|\\\\", "", body.partition(r"\end{tabular}")[0]
    )
    assert set(bare) & set("%$#_{}~^<>|\\") == {"\\"}  # of the rules
    assert re.findall(r"\\\w+", bare) == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [1, 1, 1]
    assert r"$-$0.5 $\pm$ 0.1" in body
    assert "semi-supervised & $+$1" in body
    assert text.isascii()
    assert "[$-$0.1, $+$0.2] of gem-2 at $-$1e-05" in latex(
        Sheet("t", "[-0.1, +0.2] of gem-2 at -1e-05", (), [])
    )


def test_markdown_cells_stay_cells() -> None:
    lines = markdown(Sheet("t", "caption", ("method", "x"), [(NASTY, "1")])).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:3]] == [3, 3, 3]
    assert lines[1] == "| --- | ---: |"
    assert markdown(Sheet("t", "<b> `x", (), [])).endswith("\\<b> \\`x\n")


def test_the_terminal_has_80_columns(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run("run", "a_strategy_with_a_long_name" * 3)
    print_results(results_table(load_results(folder)), "digits")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(re.search(r"0\.\d{3} .*0\.\d{3}", line) is not None for line in lines) == 1


def test_the_terminal_cuts_no_number(write_run, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers as wide as they get: what does not fit beside the others is below them."""
    for seed in range(2):
        folder = write_run(f"{seed}", "a_strategy_with_a_long_name", seed)
        values = json.loads((folder / "summary.json").read_text())
        costs = {"seconds_train": 1e6 * (1 + seed), "seconds_eval": 123456.7, "peak_memory_mb": 1e5 * seed}
        (folder / "summary.json").write_text(json.dumps(values | costs))
    names = ("acc", "bwd", "la", "fwt", "forgetting", "seconds_train", "seconds_eval", "peak_memory_mb")
    table = results_table(load_results(tmp_path))
    print_results(table, "digits", names)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for name in names:
        digits = {"peak_memory_mb": 0}.get(name, 1 if name.startswith("seconds") else 3)
        mean, half_width = table.loc[0, f"{name}_mean"], table.loc[0, f"{name}_half_width"]
        assert f"{mean:.{digits}f}±{half_width:.{digits}f}" in out
    assert out.count("mean ±") == 1


def test_the_terminal_shows_no_seconds_of_runs_that_shared_a_machine(write_run, tmp_path, capsys) -> None:
    launcher = {"name": "joblib", "runs_at_once": 2}
    write_run("a", "gem", environment={"launcher": launcher})
    print_results(results_table(load_results(tmp_path)), "digits", ("acc", "seconds_train"))
    out = capsys.readouterr().out
    assert "train s" not in out
    assert "Seconds are left out" in out
    write_run("b", "naive")
    print_results(results_table(load_results(tmp_path)), "digits", ("acc", "seconds_train"))
    out = capsys.readouterr().out
    assert re.search(r"naive.* 2\.0 *$", out, re.MULTILINE)
    assert re.search(r"gem.* - *$", out, re.MULTILINE)
    assert "Seconds are left out" in out
