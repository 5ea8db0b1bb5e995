import re

import pytest

from avalanche_mgem.report.closing import print_sweep
from avalanche_mgem.runs import find_runs, read_run


def printed(folder, capsys: pytest.CaptureFixture[str]) -> str:
    complete, _ = find_runs([folder])
    print_sweep([read_run(path) for path in complete])
    out = capsys.readouterr().out
    assert max(map(len, out.partition("the same run")[0].splitlines())) <= 80
    return out


def rows(out: str) -> list[str]:
    """The first words of the rows: the method and how many runs it has."""
    return [" ".join(row.split()) for row in re.findall(r"^ ?([a-z].* \d+) +-?\d\.\d{3}", out, re.MULTILINE)]


def titles(out: str) -> list[str]:
    return re.findall(r"^ +(\S.*?) *\n +mean ±", out, re.MULTILINE)


def test_one_protocol_has_one_table_of_methods(write_run, tmp_path, capsys) -> None:
    accuracies = []
    for seed in range(3):
        write_run(f"naive{seed}", "naive", seed)
        run = write_run(f"a{seed}", "gem", seed, settings={"gamma": 0.25})
        accuracies.append(read_run(run).numbers["acc"])
        write_run(f"b{seed}", "gem", seed, settings={"gamma": 1}, config={"device": "cuda"})
    out = printed(tmp_path, capsys)
    assert titles(out) == ["digits"]
    assert rows(out) == ["naive 3", "gem gamma=0.25 3", "gem gamma=1 3"]
    assert re.search(r"^ method +n +ACC +BWD +LA +FWT +train s *$", out, re.MULTILINE)
    assert f"{sum(accuracies) / 3:.3f}±" in out
    assert "3.0±2.5" in out  # seconds in training: 2, 3 and 4


def test_what_a_report_would_refuse_has_a_table_for_each_protocol(write_run, tmp_path, capsys) -> None:
    for seed in range(2):
        write_run(f"a{seed}", "gem", seed)
        write_run(f"b{seed}", "gem", seed, config={"train_epochs": 2})
        write_run(
            f"c{seed}", "gem", seed, summary={"benchmark": "other"}, config={"benchmark._target_": "b.X"}
        )
    out = printed(tmp_path, capsys)
    assert sorted(titles(out)) == ["digits train_epochs=1", "digits train_epochs=2", "other"]
    assert rows(out) == ["gem 2"] * 3


def test_a_seed_counts_once(write_run, tmp_path, capsys) -> None:
    write_run("a", "gem", 0)
    write_run("b", "gem", 0, config={"device": "cuda", "benchmark.preload": False})
    write_run("c", "gem", 1)
    out = printed(tmp_path, capsys)
    assert rows(out) == ["gem 2"]
    assert out.endswith("the same run, counted once: a and b\n")


def test_seeds_that_are_held_fixed_in_some_runs_do_not_end_it(write_run, tmp_path, capsys) -> None:
    """The benchmark's seed is 0 in all runs, though naive's one run of a protocol could follow its own."""
    fixed = {"benchmark.seed": 0}
    for seed in (0, 1):
        write_run(f"gem{seed}", "gem", seed, config=fixed)
        write_run(f"naive{seed}", "naive", seed, config={**fixed, "train_epochs": 1 + seed})
    out = printed(tmp_path, capsys)
    assert sum(int(row.split()[-1]) for row in rows(out)) == 4
