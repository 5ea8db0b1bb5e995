"""Validation samples are those of no training, no memory and no test."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers import Probe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from avalanche_mgem import MGEMPlugin
from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.metrics.gap import GeneralizationGap
from avalanche_mgem.report import load_results
from avalanche_mgem.runs import check_same_run

runner = import_module("avalanche_mgem.experiment.runner")
SMALL = ("benchmark.n_experiences=3", "samples_per_experience=60", "test_samples_per_experience=30")


def images(x: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x.detach().cpu()}


def stream(benchmark: Any, name: str) -> set[bytes]:
    return set().union(*(images(x[None]) for e in benchmark.streams[name] for x, *_ in e.dataset))


@pytest.mark.filterwarnings("ignore:Call to deprecated function update:DeprecationWarning")
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(each, marks=[] if each in ("er_gem", "agem", "gdumb", "joint") else [pytest.mark.slow])
        for each in ("naive", "er_gem", "dmgem", "agem", "derpp", "gdumb", "cumulative", "joint")
    ],
)
def test_no_validation_sample_is_trained_on_or_remembered(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, benchmark = prepare(compose(f"strategy={strategy}", "validation=0.2", *SMALL))
    valid = stream(benchmark, "valid")
    assert len(valid) == 3 * 12  # the digits are all different
    trained = Probe("before_forward", lambda s: images(s.mb_x))
    passed = Probe("before_eval_forward", lambda s: (s.experience.origin_stream.name, images(s.mb_x)))
    make = runner.make_strategy

    def probed(*arguments: Any) -> Any:
        made.append(make(*arguments))
        made[0].plugins += [trained, passed]
        return made[0]

    made: list[Any] = []
    monkeypatch.setattr(runner, "make_strategy", probed)
    result = runner.train_and_evaluate(cfg, benchmark, seconds_data=0.0)
    assert len(result.valid_matrix) == len(result.matrix)
    seen = set().union(*trained.seen)
    assert seen  # with the samples of replay
    assert seen.isdisjoint(valid)
    assert seen <= stream(benchmark, "train")
    tested = {name: set().union(*(x for n, x in passed.seen if n == name)) for name in ("test", "valid")}
    assert tested["valid"] == valid
    assert tested["test"].isdisjoint(valid)
    if plugin := MGEMPlugin.of(made[0]):
        kept = plugin.memory.groups(device=made[0].device)
        assert images(kept.x)
        assert images(kept.x).isdisjoint(valid)


def test_the_summary_has_the_mean_over_the_experiences(tmp_path: Path) -> None:
    words = ["strategy=naive", "validation=0.2", "logger=[csv,tensorboard]", *SMALL]
    result = run(words, tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["valid_acc"] == pytest.approx(sum(result.valid_matrix[-1]) / 3)
    assert len(load_results(tmp_path / "run").runs) == 1
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    names = events.Tags()["scalars"]
    assert sum(name.startswith("Top1_Acc_Exp/eval_phase/valid_stream") for name in names) == 3
    # What knows an experience by its number stays that of the test stream.
    assert not [
        name for name in names if "valid_stream" in name and not name.startswith(("Top1_Acc", "Loss"))
    ]
    forgetting = events.Scalars("StreamForgetting/eval_phase/test_stream")[-1].value
    assert forgetting == pytest.approx(summary["forgetting"], abs=1e-6)
    rows = (tmp_path / "run/csv/eval_results.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 3


def test_without_validation_there_is_no_such_number() -> None:
    result = run(["strategy=naive", *SMALL])
    assert "valid_acc" not in result.summary
    assert result.valid_matrix == []


def test_the_split_is_taken_from_the_subset() -> None:
    _, benchmark = prepare(compose("validation=0.1", *SMALL))
    _, whole = prepare(compose(*SMALL))
    assert [len(e.dataset) for e in benchmark.train_stream] == [54] * 3
    assert stream(benchmark, "train") | stream(benchmark, "valid") == stream(whole, "train")


@pytest.mark.parametrize("value", ["0", "1", "0.0", "true", "-0.1", "abc", "[0.1]"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(
        UserError, match=r"^validation=.*: it must be a fraction above 0 and below 1, or null$"
    ):
        prepare(compose(f"validation={value}", *SMALL))


def test_too_few_samples_are_a_line() -> None:
    with pytest.raises(UserError, match=r"^validation=0.001: it leaves no validation sample of the 60 of"):
        prepare(compose("validation=0.001", *SMALL))


def test_a_run_of_an_older_version_is_one_without_validation(tmp_path: Path) -> None:
    words = ["strategy=naive", *SMALL]
    run(words, tmp_path / "run")
    file = tmp_path / "run/config.yaml"
    file.write_text(file.read_text().replace("validation: null\n", ""))
    check_same_run(tmp_path / "run", compose(*words))
    with pytest.raises(UserError, match=r"another validation \(absent there, 0.1 here\)"):
        check_same_run(tmp_path / "run", compose("validation=0.1", *words))
    assert load_results(tmp_path / "run").runs["strategy"].tolist() == ["naive"]


def test_the_gap_is_measured_on_validation_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    original = GeneralizationGap._held_out_experience

    def held_out(self: Any, experience: Any) -> Any:
        found.append(original(self, experience))
        return found[-1]

    monkeypatch.setattr(GeneralizationGap, "_held_out_experience", held_out)
    words = ["strategy=gem", "gap_patterns_per_exp=5", "gap_every=1", *SMALL]
    for extra, name in (([], "test"), (["validation=0.1"], "valid")):
        result = run([*words, *extra])
        assert {experience.origin_stream.name for experience in found} == {name}
        assert "gap_violated" in result.constraints[-1]
        found.clear()
