import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from avalanche.training.plugins import EWCPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.problem_type import SupervisedProblem
from hydra import compose, initialize_config_dir

from avalanche_mgem import timing
from avalanche_mgem.experiment._profile import Profile, profile
from avalanche_mgem.experiment.main import config_folder
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.projector import Projector
from avalanche_mgem.references import Factors, ReferenceComputer
from avalanche_mgem.runs import UserError

projection = import_module("avalanche_mgem.functional._project")  # the package has a function of this name
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=80", "test_samples_per_experience=40")
FEW = ("steps=4", "warmup=1")
STEP = ["data", "current gradient", "optimizer", "other"]
PROJECTION = ["references", "gram", "solver", "combine"]
STRATEGIES = sorted(path.stem for path in (config_folder() / "strategy").glob("*.yaml"))
OURS = ("gem", "pmgem", "dmgem", "pdmgem", "er_gem")
OF_EACH_KIND = (*OURS, "naive", "ewc", "replay", "joint", "avalanche_gem")
Mgem = Callable[..., Any]

# Avalanche's synaptic intelligence calls NumPy's square on a torch tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
    "ignore:Call to deprecated function update:DeprecationWarning",
)


def measure(*overrides: str) -> Profile:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("profile", [*SMALL, *FEW, *overrides])
    cfg.names = {"strategy": None, "benchmark": None}  # of Hydra's run, of which there is none
    return profile(cfg)


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row by the name of its phase."""
    found = re.findall(r"^  ([a-z ]+?)  +([\d.].*)$", table, re.MULTILINE)
    return {name: cells.split() for name, cells in found}


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(each, marks=[] if each in OF_EACH_KIND else [pytest.mark.slow]) for each in STRATEGIES],
)
def test_every_strategy_has_a_table_that_adds_up(mgem: Mgem, tmp_path: Path, strategy: str) -> None:
    result = mgem("profile", f"strategy={strategy}", *SMALL, *FEW)
    assert (result.status, result.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    head, step, evaluation = re.split(r"\n(?=One step|Evaluation)", result.out)
    assert head.startswith(
        f"{strategy} on permuted_digits, seed 0\nparameters: 17610, minibatch: 10, device: cpu"
    )
    assert "over 4 steps" in step
    assert "80 samples" in evaluation
    assert max(map(len, result.out.splitlines())) <= 80

    steps, tested = rows(step), rows(evaluation)
    assert set(steps) == {*STEP, *(PROJECTION if strategy in OURS else ()), "all"}
    assert set(tested) == {"data", "network", "other", "all"}
    for table, value, share in ((steps, 0, 2), (tested, 0, 1)):
        total = table.pop("all")
        assert sum(float(cells[value]) for cells in table.values()) == pytest.approx(
            float(total[value]), abs=0.02
        )
        assert sum(float(cells[share][:-1]) for cells in table.values()) == pytest.approx(100, abs=0.5)


def test_all_phases_of_a_projection_are_measured() -> None:
    result = measure("strategy.memory_strength=0.5", "benchmark.n_experiences=3")
    assert result.step_phases == ["data", "current gradient", *PROJECTION, "optimizer", "other"]
    assert all(step.seconds[name] > 0 for step in result.steps for name in (*STEP, *PROJECTION[:3]))
    assert all(step.calls["references"] == step.calls["gram"] == 1 for step in result.steps)
    assert any(step.seconds["combine"] > 0 for step in result.steps)
    assert "constraints K: 4, modules m: 1, references: " in result.description
    assert "constraints K: 2, modules m: 2, " in measure("strategy=pdmgem").description


@pytest.fixture
def takes_a_second(
    monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> Callable[[Any, str], None]:
    """Lets a function of a class or module take a second, and all else none."""

    def replaced(owner: Any, function: str) -> None:
        original = getattr(owner, function)

        def slow(*args: Any, **kwargs: Any) -> Any:
            pass_time(1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, function, slow)

    return replaced


def test_a_step_is_what_a_clock_says(takes_a_second: Callable[[Any, str], None]) -> None:
    takes_a_second(ProgressBar, "after_training_iteration")
    assert [sum(step.seconds.values()) for step in measure("steps=7").steps] == [1.0] * 7


@pytest.mark.parametrize(
    ("owner", "function", "phase", "strategy"),
    [
        (SupervisedTemplate, "_unpack_minibatch", "data", "naive"),
        pytest.param(SupervisedTemplate, "forward", "current gradient", "naive", marks=pytest.mark.slow),
        (SupervisedProblem, "criterion", "current gradient", "dmgem"),
        (SupervisedTemplate, "backward", "current gradient", "dmgem"),
        pytest.param(SupervisedTemplate, "optimizer_step", "optimizer", "dmgem", marks=pytest.mark.slow),
        (ReferenceComputer, "__call__", "references", "dmgem"),
        pytest.param(Factors, "products", "gram", "dmgem", marks=pytest.mark.slow),
        (projection, "dual_on_host", "solver", "dmgem"),
        pytest.param(Factors, "combine", "combine", "dmgem", marks=pytest.mark.slow),
        pytest.param(Projector, "strength", "other", "dmgem", marks=pytest.mark.slow),
        (EWCPlugin, "before_backward", "other", "ewc"),
        pytest.param(Clock, "after_training_iteration", "other", "naive", marks=pytest.mark.slow),
    ],
)
def test_time_is_where_it_is_spent(
    takes_a_second: Callable[[Any, str], None], owner: Any, function: str, phase: str, strategy: str
) -> None:
    takes_a_second(owner, function)
    result = measure(f"strategy={strategy}", "steps=2")
    inside = sum(step.seconds[phase] for step in result.steps)
    assert inside == sum(sum(step.seconds.values()) for step in result.steps) >= 1


@pytest.mark.parametrize(("function", "phase"), [("_unpack_minibatch", "data"), ("forward", "network")])
def test_evaluation_is_divided_too(
    takes_a_second: Callable[[Any, str], None], function: str, phase: str
) -> None:
    takes_a_second(SupervisedTemplate, function)
    result = measure("strategy=naive", "eval_mb_size=40")
    assert result.samples == 80
    assert result.evaluation.seconds[phase] == sum(result.evaluation.seconds.values()) == 2


@pytest.mark.parametrize(("samples", "epochs"), [(80, 1), (20, 3)])
def test_each_experience_is_trained_for_some_steps(
    monkeypatch: pytest.MonkeyPatch, samples: int, epochs: int
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        ProgressBar,
        "after_training_iteration",
        lambda self, s, **_: seen.append(s.experience.current_experience),
    )
    sizes = [f"samples_per_experience={samples}", f"train_epochs={epochs}", "benchmark.n_experiences=3"]
    assert len(measure("strategy=naive", *sizes).steps) == 4
    assert seen == [0] * 5 + [1] * 5 + [2] * 5


def test_fewer_steps_than_asked_for_are_counted() -> None:
    assert len(measure("strategy=naive", "steps=50").steps) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=0"], "steps=0: it must be an integer, at least 1"),
        (["steps=2.5"], "steps=2.5: it must be an integer, at least 1"),
        (["warmup=-1"], "warmup=-1: it must be an integer, at least 0"),
        (["warmup=8", *SMALL], "warmup=8: the last experience has 8 steps, and none is left"),
        (["strategy=foo"], "no strategy is called 'foo'"),
        (["seed=x"], "seed=x: it must be an integer"),
        (["step=3"], "there is no key 'step'; did you mean 'steps'?"),
        (["-m", "seed=0,1"], "profile measures one run; leave out --multirun"),
        (["hydra.mode=MULTIRUN"], "profile measures one run; leave out --multirun"),
        (["optimizer.lr=1e30", *SMALL], "not finite"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: mgem profile writes nothing; leave it out"),
        (["logger=csv"], "logger=csv: a profile is not logged; leave it out"),
        (["save_model=true"], "save_model=True: a profile keeps no model; leave it out"),
    ],
)
def test_a_mistake_gets_one_line(mgem: Mgem, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = mgem("profile", *arguments)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(r"mgem: [^\n]+\n", result.err)
    assert message in result.err
    assert list(tmp_path.iterdir()) == []
    assert timing._timeline is None


def test_debug_shows_the_traceback(mgem: Mgem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGEM_DEBUG", "1")
    with pytest.raises(UserError, match="steps=0"):
        mgem("profile", "steps=0")


def test_help_teaches(mgem: Mgem) -> None:
    result = mgem("profile", "--help")
    assert result.status == 0
    assert "mgem profile strategy=gem steps=200" in result.out
    assert f"strategy: {', '.join(sorted([*STRATEGIES, 'custom']))}" in result.out
    assert "Nothing is written." in result.out


def test_without_the_word_nothing_changes(mgem: Mgem) -> None:
    assert "there is no key 'steps'" in mgem("steps=3").err
