"""The scripts with Avalanche train, and print what they say."""

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="example")


@pytest.mark.parametrize(
    ("name", "columns"),
    [("avalanche_script", ["gem", "dmgem"]), ("replay_with_constraints", ["replay", "dmgem", "both"])],
)
def test_a_comparison_prints_a_row_of_accuracies_for_each_seed(name, columns, capsys):
    main = load(name)["main"]
    main.__globals__["acc"] = partial(main.__globals__["acc"], n_experiences=2)
    main(seeds=[5])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["seed", *columns]
    seed, *accuracies = row.split()
    assert seed == "5"
    assert len(set(accuracies)) == len(columns)  # they are different methods
    assert all(0.5 < float(value) < 1 for value in accuracies)  # chance is 0.1


def test_both_memories_together_keep_as_many_samples_as_one_alone():
    plugins = load("replay_with_constraints")["plugins"]
    (replay,), (alone,), (half, constraints) = (plugins(name, 4) for name in ("replay", "dmgem", "both"))
    assert replay.mem_size == 4 * alone.memory.patterns_per_experience == 400
    assert half.mem_size + 4 * constraints.memory.patterns_per_experience == 400


def test_own_model_and_data_learn_and_remember(capsys):
    example = load("own_model_and_data")
    train = example["train"]
    example["main"].__globals__["train"] = lambda: train(n=400)
    example["main"]()
    rows = [line.split()[3:] for line in capsys.readouterr().out.splitlines()]
    assert [len(row) for row in rows] == [3, 3, 3]
    assert all(float(row[i]) > 0.8 for i, row in enumerate(rows))  # each is learnt when it is trained
    assert float(rows[-1][0]) > 0.7  # and the first is not forgotten
