"""The command ``mgem tune``, and the same from Python."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pandas as pd
import pytest
import torch
from avalanche.training.templates import SupervisedTemplate
from helpers import help_examples

from avalanche_mgem.experiment import UserError, compose, tune
from avalanche_mgem.experiment._files import config_folder
from avalanche_mgem.experiment.tuning import api
from avalanche_mgem.experiment.tuning.folder import description
from avalanche_mgem.experiment.tuning.settings import read_settings, split_words
from avalanche_mgem.experiment.tuning.trial import Benchmarks, objectives

Mgem = Callable[..., Any]
SMALL = ["benchmark.n_experiences=3", "samples_per_experience=40", "tune.experiences=2"]
SPACE = ["tune.space.strategy.memory_strength=[0,0.5]", "tune.space.optimizer.lr=log(0.01,0.3)"]
WORDS = ["strategy=gem,naive", "tune.trials=3", "seed=5", "optimizer.momentum=0.5", *SMALL, *SPACE]
COMMAND = [sys.executable, "-c", "from avalanche_mgem.experiment.main import main; main()"]


@pytest.fixture
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "write_figure", lambda *_: None)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[api.Tuned, set[str]]:
    """A study of two strategies, and the streams that were evaluated in it."""
    streams: set[str] = set()
    evaluate = SupervisedTemplate.eval

    def watched(self: Any, experiences: Any, **options: Any) -> Any:
        streams.update(experience.origin_stream.name for experience in experiences)
        return evaluate(self, experiences, **options)

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupervisedTemplate, "eval", watched)
        return tune(WORDS, tmp_path_factory.mktemp("tune") / "study"), streams


def test_no_test_sample_has_a_part_in_it(study: tuple[api.Tuned, set[str]]) -> None:
    assert study[1] == {"valid"}


def test_the_best_values_are_those_of_the_best_trial(study: tuple[api.Tuned, set[str]]) -> None:
    tuned, _ = study
    assert set(tuned.best) == {"gem", "naive"}
    assert list(tuned.best["naive"]) == ["optimizer.lr"]  # it has no memory strength
    for name, best in tuned.best.items():
        rows = tuned.trials[tuned.trials["strategy"] == name]
        assert len(rows) == 3
        top = rows.loc[rows["valid_acc"].idxmax()]
        assert tuned.valid_acc[name] == top["valid_acc"]
        assert {key: top[key] for key in best} == best
    written = pd.read_csv(tuned.folder / "trials.csv")
    pd.testing.assert_frame_equal(
        written.drop(columns="reason"), tuned.trials.drop(columns="reason"), check_dtype=False
    )


@pytest.mark.usefixtures("_no_picture")
def test_a_strategy_that_has_none_of_the_given_keys_keeps_its_own_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["strategy=gem,naive", "tune.trials=1", *SMALL, "tune.space.strategy.memory_strength=[0,0.5]"]
    tuned = tune(words, tmp_path / "study")
    assert {name: list(best) for name, best in tuned.best.items()} == {
        "gem": ["strategy.memory_strength"],
        "naive": ["optimizer.lr"],
    }
    assert "naive has no strategy.memory_strength; it is tuned over optimizer.lr" in capsys.readouterr().err


def test_the_best_runs_by_its_name(study: tuple[api.Tuned, set[str]]) -> None:
    tuned, _ = study
    for name, best in tuned.best.items():
        cfg = compose(f"strategy=best_{name}", config_dir=tuned.folder)
        expected = compose(f"strategy={name}", *(f"{key}={value}" for key, value in best.items()))
        assert (cfg.strategy, cfg.optimizer) == (expected.strategy, expected.optimizer)
        assert cfg.validation is None
        assert compose(f"strategy=best_{name}", "optimizer.lr=7", config_dir=tuned.folder).optimizer.lr == 7
    where = os.path.relpath(tuned.folder)
    assert tuned.command == (
        f"mgem -m --config-dir {where} strategy=best_gem,best_naive seed=0,1,2,3,4 optimizer.momentum=0.5 "
        "benchmark.n_experiences=3 samples_per_experience=40"
    )


def test_each_strategy_has_a_picture(study: tuple[api.Tuned, set[str]]) -> None:
    for name in ("gem", "naive"):
        image = matplotlib.image.imread(study[0].folder / f"tune_{name}.png")
        assert image.std() > 0.05
        assert (study[0].folder / f"tune_{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_objective_is_the_mean_over_experiences_and_seeds() -> None:
    cfg = compose("strategy=replay", "validation=0.25", *SMALL[:2])
    values, asked = {"optimizer.lr": 0.2}, ["tune.experiences=2"]
    both = read_settings([*asked, "tune.seeds=2", "tune.first_seed=7"])
    found = list(objectives(cfg, both, values, Benchmarks()))
    single = [
        list(objectives(cfg, read_settings([*asked, f"tune.first_seed={seed}"]), values, Benchmarks()))
        for seed in (7, 8)
    ]
    assert found == pytest.approx([single[0][0], (single[0][0] + single[1][0]) / 2])
    assert single[0][0] * 20 == pytest.approx(round(single[0][0] * 20))  # of twenty samples


def test_a_trial_begins_as_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    train = SupervisedTemplate.train

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        sizes.extend(plugin.mem_size for plugin in self.plugins if hasattr(plugin, "mem_size"))
        return train(self, *arguments, **options)

    monkeypatch.setattr(SupervisedTemplate, "train", watched)
    cfg = compose("strategy=replay", "validation=0.25", *SMALL[:2])
    assert len(list(objectives(cfg, read_settings(["tune.experiences=2"]), {}, Benchmarks()))) == 1
    assert sizes == [3 * 256] * 2  # the memory of all three experiences


@pytest.mark.usefixtures("_no_picture")
@pytest.mark.parametrize(
    ("words", "key", "values"),
    [
        (["strategy.patterns_per_exp=null"], "strategy.mem_size", "[20,40]"),
        (["strategy.memory_strength={_target_: avalanche_mgem.schedules.Shared, total: 6}"],
         "strategy.memory_strength.total", "[2,4]"),
        (["~strategy.ridge"], "strategy.memory_strength", "[0,1]"),
        (["+strategy.eval_every=-1"], "strategy.memory_strength", "[0,1]"),
    ],
)  # fmt: skip
def test_the_best_keeps_what_words_make_of_the_strategy(
    tmp_path: Path, words: list[str], key: str, values: str
) -> None:
    grid = ["tune.sampler=grid", f"tune.space.{key}={values}"]
    tuned = tune(["strategy=gem", *words, *SMALL, *grid], tmp_path / "study")
    assert set(tuned.trials["state"]) == {"complete"}
    expected = compose("strategy=gem", *words, f"{key}={tuned.best['gem'][key]}")
    command = [word for word in shlex.split(tuned.command) if "=" in word and not word.startswith("seed=")]
    cfg = compose(*command, config_dir=tmp_path / "study")
    assert cfg.strategy == expected.strategy


@pytest.mark.usefixtures("_no_picture")
def test_a_key_of_the_default_space_that_has_several_values_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "strategy.memory_strength={_target_: avalanche_mgem.schedules.Shared, total: 6}",
        "tune.trials=1",
    ]
    tuned = tune(["strategy=gem", *words, *SMALL], tmp_path / "study")
    assert list(tuned.best["gem"]) == ["optimizer.lr"]
    assert (
        "gem has strategy.memory_strength.total in place of strategy.memory_strength; it is tuned over "
        "optimizer.lr\n"
    ) in capsys.readouterr().err


@pytest.mark.usefixtures("_no_picture")
def test_a_trial_that_diverges_does_not_end_the_study(mgem: Mgem, tmp_path: Path) -> None:
    words = ["strategy=naive", "tune.sampler=grid", "tune.space.optimizer.lr=[1e30,0.1]", "tune.dir=study"]
    result = mgem("tune", *words, *SMALL)
    assert (result.status, result.err) == (0, "")
    assert "naive: 2 trials: 1 complete, 1 failed" in result.out
    assert "1 failed: the weights are not finite after experience 0" in result.out
    assert "best: optimizer.lr=0.1\n" in result.out
    table = result.out.partition("best trials")[2].partition("results:")[0]
    assert max(map(len, table.splitlines())) <= 80
    frame = pd.read_csv(tmp_path / "study/trials.csv").set_index("optimizer.lr")
    assert frame.loc[1e30, "state"] == "failed"
    assert "not finite" in frame.loc[1e30, "reason"]


@pytest.mark.usefixtures("_no_picture")
def test_a_study_without_a_complete_trial_is_an_error(mgem: Mgem, tmp_path: Path) -> None:
    result = mgem("tune", "strategy=naive", "tune.space.optimizer.lr=[1e30]", "tune.trials=1", *SMALL)
    assert result.status == 2
    assert "no trial was complete: the first failed with: the weights are not finite" in result.err
    assert not (tmp_path / "runs/tune/permuted_digits-naive/strategy").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["tune.space.optimizer.lrr=[1]"], "did you mean 'optimizer.lr'?"),
        (["tune.space.optimizer.lr=0.1"], "it must be [a,b,...]"),
        (["strategy=gem,nothing"], "no strategy is called 'nothing'"),
        (["validation=null"], "validation=null: the objective is measured on such samples"),
        (["logger=csv"], "logger=csv: trials are not logged"),
        (["save_model=true"], "save_model=True: the models of trials are not kept"),
        (["tune.experiences=6"], "tune.experiences=6: the benchmark has 5"),
        (["optimizer.lr=0.1"], "tune.space.optimizer.lr: the words of the command, or a named experiment"),
        (["strategy.num_groups=1000"], "num_groups"),
        (
            ["tune.sampler=grid"],
            "the default space of dmgem: tune.space.optimizer.lr=log(0.003,0.3): tune.",
        ),
        (["hydra.run.dir=x"], "hydra.run.dir=x: the results of a study are in tune.dir=DIR; leave it out"),
        (["seed=0,1"], "seed=0,1: it is that of the sampler, one number; tune.seeds=3 makes"),
        (["benchmark=permuted_digits,x"], "benchmark=permuted_digits,x: a study has one benchmark"),
        (["optimizer.lr=0.1,0.2"], "optimizer.lr=0.1,0.2: tune.space.optimizer.lr='[a,b,...]' tries"),
        (["strategy=[gem, naive]"], "several strategies have no brackets: strategy=gem,naive"),
        (["strategy.memory_strength=0"], "tune.space.strategy.memory_strength: the words of the command"),
        (
            ["strategy=gem", "~optimizer.lr", "~strategy.memory_strength"],
            "it has no optimizer.lr, no strategy.memory_strength; give a tune.space.KEY that it has",
        ),
        (["strategy.patterns_per_exp=null"], "mem_size"),
        (["strategy.patterns_per_exp=null", "tune.space.strategy.mem_size=[0]"], "mem_size"),
    ],
)
def test_a_mistake_is_a_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(error)) as raised:
        tune([*words, "samples_per_experience=40"])
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["strategy=gem,nothing"], "no strategy is called 'nothing'"),
        (["tune.experiences=6"], "tune.experiences=6: the benchmark has 5"),
        (["-m"], "tune makes many runs by itself; leave out --multirun"),
    ],
)
def test_a_mistake_is_a_line_of_the_command(mgem: Mgem, tmp_path: Path, words: list[str], error: str) -> None:
    result = mgem("tune", *words, "samples_per_experience=40")
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(rf"mgem: [^\n]*{error}[^\n]*\n", result.err)
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_one_study(tmp_path: Path, study: tuple[api.Tuned, set[str]]) -> None:
    asked = json.loads((study[0].folder / "study.json").read_text())["study"]
    api.claim(study[0].folder, asked)
    for change in (
        {"tune.sampler": "random"},
        {"tune.space.optimizer.lr": "[1]"},
        {"benchmark.n_experiences": "4"},
    ):
        (key,) = change
        with pytest.raises(
            UserError, match=re.escape(f"holds a study with another {key} ({asked[key]} there")
        ):
            api.claim(study[0].folder, {**asked, **change})
    with pytest.raises(
        UserError, match=r"another strategy \(gem,naive there, gem here\); nothing is changed"
    ):
        api.claim(study[0].folder, {**asked, "strategy": "gem", "seed": "3"})


@pytest.mark.parametrize("model", sorted(path.stem for path in (config_folder() / "model").glob("*.yaml")))
def test_a_study_of_every_model_is_described_before_a_benchmark_is_read(model: str) -> None:
    cfg = compose(f"model={model}")
    made = description({"gem": cfg}, {"gem": {}}, read_settings([]), 0)
    assert made["model._target_"] == cfg.model._target_


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "paper.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds paper.tex, and no study; give an empty or another tune.dir$"):
        api.claim(tmp_path, {"strategy": "gem"})
    with pytest.raises(UserError, match="must be a folder"):
        api.claim(tmp_path / "paper.tex", {"strategy": "gem"})
    for mark in ("[]", "{", '{"package": "avalanche-mgem"}'):
        (tmp_path / "study.json").write_text(mark)
        with pytest.raises(UserError, match=r"study\.json: it (cannot be read|is no mark)"):
            api.claim(tmp_path, {"strategy": "gem"})
    assert {path.name for path in tmp_path.iterdir()} <= {"paper.tex", "study.json", ".locks"}


@pytest.mark.usefixtures("_no_picture", "_signals")
def test_an_interrupted_study_says_how_to_go_on(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["strategy=gem", "tune.trials=2", "tune.dir=study", *SMALL, *SPACE]
    monkeypatch.setattr(api, "objectives", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    result = mgem("tune", *words)
    assert result.status == 130
    assert result.err == "mgem: interrupted; the same command goes on with the study in study\n"


def test_without_optuna_a_line_says_how_to_install_it(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("avalanche_mgem.experiment.tuning.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = mgem("tune", *SMALL)
    assert (result.status, result.err) == (
        2,
        "mgem: mgem tune needs Optuna: in a clone of avalanche-mgem, pip install '.[tune]'\n",
    )


@pytest.mark.usefixtures("_no_picture")
@pytest.mark.slow
def test_a_killed_study_ends_in_the_same_best(tmp_path: Path, study: tuple[api.Tuned, set[str]]) -> None:
    killed = subprocess.Popen(
        [*COMMAND, "tune", *WORDS, "tune.dir=study"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.stdout is not None
    for number in (0, 1):
        assert killed.stdout.readline().startswith(f"gem trial {number} of 0..2: ")
    time.sleep(0.05)  # into the third
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "study/strategy").exists()
    tune(WORDS, tmp_path / "study")
    for file in ("strategy/best_gem.yaml", "strategy/best_naive.yaml", "trials.csv"):
        assert (tmp_path / "study" / file).read_bytes() == (study[0].folder / file).read_bytes()


@pytest.mark.usefixtures("_no_picture")
def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs/tuning.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["result"].names["strategy"] == "best"


def test_the_help_teaches(mgem: Mgem) -> None:
    result = mgem("tune", "--help")
    assert result.status == 0
    for word in ("log(a,b)", "strategy=best", "tune.trials", "validation samples"):
        assert word in result.out
    shown = help_examples(result.out, end="tune.space.KEY=VALUES")
    assert len(shown) == 5
    for program, command, *words in shown:
        assert (program, command) == ("mgem", "tune")
        asked = split_words(words)
        settings = read_settings([word for word in asked.own if not word.startswith("strategy=")])
        cfgs = {name: compose(*asked.runs, f"strategy={name}") for name in asked.strategies or ["gem"]}
        assert api._spaces(cfgs, settings, None)
