import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from avalanche_mgem.experiment import UserError, compose
from avalanche_mgem.experiment.configuration import config_folder
from avalanche_mgem.experiment.tuning.space import Choices, Range, check_keys, grid_size, parse, tunable
from avalanche_mgem.runs import flatten

numbers = st.floats(-1e6, 1e6, allow_nan=False)


class First:
    """Chooses the first value, as a trial of Optuna would choose some."""

    def suggest_categorical(self, key: str, values: list[Any]) -> Any:
        return values[0]

    def suggest_int(self, key: str, low: int, high: int) -> int:
        return low

    def suggest_float(self, key: str, low: float, high: float, *, log: bool) -> float:
        return low


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[0,0.02,0.5]", (0, 0.02, 0.5)),
        ("[1e-05, 1e-3]", (1e-05, 1e-3)),
        ("[2, layer, 'random:4', null, true]", (2, "layer", "random:4", None, True)),
        ("[1]", (1,)),
    ],
)
def test_choices(text: str, values: tuple[Any, ...]) -> None:
    part = parse("strategy.x", text)
    assert part == Choices(values)
    assert [type(value) for value in part.values] == [type(value) for value in values]
    assert part.suggest(First(), "strategy.x") == values[0]
    assert parse("strategy.x", list(values)) == part  # as a file gives it


@given(ends=st.tuples(numbers, numbers).map(sorted), kind=st.sampled_from(["log", "uniform", "int"]))
def test_ranges_are_read_as_they_are_shown(ends: list[float], kind: str) -> None:
    low, high = map(math.floor, ends) if kind == "int" else ends
    if low >= high or (kind == "log" and low <= 0):
        return
    part = parse("optimizer.lr", f" {kind}( {low}, {high} ) ")
    assert part == Range(kind, low, high)
    assert parse("optimizer.lr", str(part)) == part
    assert type(part.suggest(First(), "optimizer.lr")) is (int if kind == "int" else float)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("0.5", r"it must be \[a,b,...\], log\(a,b\), uniform\(a,b\) or int\(a,b\)$"),
        (0.5, r"^tune.space.strategy.x=0.5: it must be"),
        ("loguniform(1,2)", "it must be"),
        ("log(1,2", "it must be"),
        ("log(1,2,3)", "it must be"),
        ("[1,2", "it must be"),
        ("[]", "at least one value"),
        ("[1,1.0]", "twice"),
        ("[[1],[2]]", "each value must be a number"),
        ("[.nan]", "no finite number"),
        ("log(0,1)", "numbers above 0"),
        ("log(a,1)", "takes two numbers"),
        ("uniform(2,1)", "must be below"),
        ("uniform(1,inf)", "must be below"),
        ("uniform(nan,1)", "must be below"),
        ("int(1.5,2)", "takes two integers"),
        ("int(2,2)", "must be below"),
    ],
)
def test_anything_else_is_a_line_that_names_the_key(value: Any, error: str) -> None:
    with pytest.raises(UserError, match=error) as found:
        parse("strategy.x", value)
    assert str(found.value).startswith("tune.space.strategy.x=")
    assert "\n" not in str(found.value)


def test_keys_of_a_method_can_be_tuned_and_no_others() -> None:
    known = tunable(compose("strategy=replay"))
    check_keys(
        dict.fromkeys(["strategy.plugins.replay.batch_size_mem", "train_mb_size", "optimizer.lr"]), known
    )
    for key in ("seed", "validation", "benchmark.n_experiences", "device", "samples_per_experience"):
        with pytest.raises(UserError, match=rf"^tune.space.{key}: there is no such key to tune; "):
            check_keys({key: None}, known)
    with pytest.raises(UserError, match=r"optimizer.lrr: .* did you mean 'optimizer.lr'\?"):
        check_keys({"optimizer.lrr": None}, known)
    with pytest.raises(
        UserError, match=r"^tune.space.optimizer: it is a part; give a key in it: optimizer.lr, "
    ):
        check_keys({"optimizer": None}, known)


def test_a_grid_has_an_end() -> None:
    space = {"a": parse("a", "[1,2,3]"), "b": parse("b", "int(2,5)")}
    assert grid_size(space) == 12
    with pytest.raises(UserError, match=r"^tune.space.c=log\(1,2\): tune.sampler=grid takes"):
        grid_size({**space, "c": parse("c", "log(1,2)")})


def keys_of(strategy: str) -> set[str]:
    """The keys in a strategy's file and in those that it begins with; composing all takes seconds."""
    node: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "strategy" / f"{strategy}.yaml"))
    others = [name.partition("@")[0] for name in node.pop("defaults", []) if name != "_self_"]
    return {f"strategy.{key}" for key in flatten(node)}.union(*map(keys_of, others))


def test_every_strategy_has_a_space_of_its_own_keys() -> None:
    spaces: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "tune_spaces.yaml"))
    assert set(spaces) == {path.stem for path in (config_folder() / "strategy").glob("*.yaml")}
    for strategy, space in spaces.items():
        assert set(space) <= {"optimizer.lr", *keys_of(strategy)}
        assert "optimizer.lr" in space
        for key, value in space.items():
            parse(key, value)
