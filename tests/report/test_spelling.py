import json
import re

import pytest

from avalanche_mgem.report import load_results
from avalanche_mgem.report.sheets import Sheet
from avalanche_mgem.report.spelling import latex, markdown, print_results
from avalanche_mgem.report.tables import results_table

NASTY = r"a_b & 5% of $x$ #1 {y} ~z^2 \n <c> | d*"


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
