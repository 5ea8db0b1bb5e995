"""Classes of the user's own: given on the command line, found beside it, and named in tables."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import help_examples
from omegaconf import OmegaConf

from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._files import options_below
from avalanche_mgem.experiment._own_classes import look_in
from avalanche_mgem.experiment.settings import build

Mgem = Callable[..., Any]
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
SOURCE = """
from avalanche.training import Naive

class {name}(Naive):
    def __init__(self, *, x, **base_kwargs):
        super().__init__(**base_kwargs)
        assert x == 1
"""


def test_what_the_help_shows_works(mgem: Mgem, tmp_path: Path) -> None:
    shown = help_examples(mgem("--help").out, end="Results are in")
    assert len(shown) > 10
    changes = {}  # of all examples: to compose each takes a while
    for program, *words in shown:
        for word in words if program == "mgem" and "strategy=custom" not in words else ():
            key, _, values = word.partition("=")
            if options := options_below(key):
                assert {*values.split(",")} <= {*options, "mine"}
            elif values or key.startswith("~"):
                changes[key] = re.sub(r"=range.*", "=0", word).partition(",")[0]
    assert {"seed", "save_model", "~strategy.ridge", "hydra.run.dir"} <= changes.keys()
    compose(*changes.values())

    (own,) = (words for _, *words in shown if "strategy=custom" in words)
    (tmp_path / "my_package.py").write_text(SOURCE.format(name="MyStrategy"))
    result = mgem(*own, *SMALL)
    assert (result.status, result.err) == (0, "")
    (summary,) = tmp_path.glob("runs/permuted_digits/MyStrategy/seed0-*/summary.json")
    assert json.loads(summary.read_text())["strategy"] == "MyStrategy"


def test_a_class_in_the_folder_of_configuration_files(mgem: Mgem, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/in_config_dir.py").write_text(SOURCE.format(name="Other"))
    target = "strategy._target_=in_config_dir.Other"
    words = ("strategy=custom", target, "strategy.x=1", *SMALL)
    result = mgem("-m", *words, "--config-dir", "mine", "hydra.sweep.dir=sweep")
    assert (result.status, result.err) == (0, "")
    assert re.search(r"^ ?Other +1 ", result.out, flags=re.MULTILINE)
    assert len(list(tmp_path.glob("sweep/permuted_digits-Other-*/summary.json"))) == 1


def test_python_finds_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "found_by_python.py").write_text(SOURCE.format(name="Third"))
    words = ["strategy=custom", "strategy._target_=found_by_python.Third", "strategy.x=1", *SMALL]
    result = run(compose(*words, config_dir=tmp_path))
    assert result.names["strategy"] == "Third"
    assert sys.path[-1] == str(tmp_path)  # it hides no other module


@pytest.mark.parametrize("group", ["strategy", "benchmark", "model", "optimizer"])
def test_each_group_has_an_option_without_arguments(group: str) -> None:
    cfg = compose(f"{group}=custom", f"{group}._target_=a.B", f"{group}.c.d=1", f"{group}.e=2")
    assert cfg[group] == {"_target_": "a.B", "c": {"d": 1}, "e": 2}
    with pytest.raises(
        UserError, match=rf"^{group} needs a _target_, .*: {group}._target_=my_package.MyClass"
    ):
        run([f"{group}=custom"])


def test_a_name_that_the_user_gave_stays() -> None:
    cfg = compose("strategy=custom", "strategy._target_=a.B", "names.strategy=mine")
    assert cfg.names == {"strategy": "mine", "benchmark": "permuted_digits"}


@pytest.mark.parametrize("sign", ["", "++"])
def test_a_class_in_place_of_an_options_own_gives_its_name(sign: str) -> None:
    cfg = compose("strategy=gem", f"{sign}strategy._target_=a.B", "benchmark._target_=c.d")
    assert cfg.names == {"strategy": "B", "benchmark": "d"}
    below = "+strategy.plugins.replay._target_=avalanche.training.plugins.ReplayPlugin"
    assert compose("strategy=gem", below).names.strategy == "gem"


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{name}.py").write_text(source)
    look_in(tmp_path)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "no_such.Thing",
            r"model._target_=no_such.Thing: there is no module no_such; looked in .*{here}, .*",
        ),
        ("torch.nn.Liner", r"model._target_=torch.nn.Liner: torch.nn has no Liner; did you mean 'Linear'\?"),
        ("torch.nn.Linear.nope", r"model._target_=torch.nn.Linear.nope: .*has no attribute 'nope'"),
        (
            "mgem_broken.Thing",
            "model._target_=mgem_broken.Thing: it imports not_there, which is not installed",
        ),
        ("mgem_wrong.Thing", "model._target_=mgem_wrong.Thing: division by zero"),
    ],
)
def test_a_class_that_is_not_found_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    own(tmp_path, monkeypatch, "mgem_broken", "import not_there\n")
    own(tmp_path, monkeypatch, "mgem_wrong", "1 / 0\n")
    inner = {"_target_": target}
    outer = {"_target_": "torch.nn.Identity", "a": inner}
    for alone, whole in ((inner, {"model": inner}), (outer, {"model": outer})):
        for node in (OmegaConf.create(alone), OmegaConf.create(whole).model):
            with pytest.raises(UserError) as error:
                build("model", node, torch.nn.Module)
            line = said.format(here=re.escape(str(tmp_path)))
            line = line if alone is inner else line.replace("model.", "model.a.", 1)
            assert re.fullmatch(line, str(error.value))


MODELS = """
import torch
from torch import nn

def lazy():
    return nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyConv2d(3, 3), nn.Flatten(), nn.LazyLinear(10))

class Deep(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv3d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x):
        return super().forward(x.unsqueeze(1))

class Wrong(nn.Module):
    error = None

    def forward(self, x):
        raise self.error

class Two(nn.Module):
    def forward(self, x, y):
        return x

class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(256, 10)

    def forward(self, x):
        return self.last(self.second(self.first(x)).view(len(x), -1))

class Unready(nn.Module):
    pass

class ValueWrong(Wrong):
    error = ValueError("expected other images")

class NameWrong(Wrong):
    error = NameError("name 'selfx' is not defined")
"""


@pytest.mark.parametrize("name", ["lazy", "Deep", "Viewed"])
def test_a_model_of_the_users_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own(tmp_path, monkeypatch, "mgem_models", MODELS)
    words = ["strategy=gem", "model=custom", f"model._target_=mgem_models.{name}", *SMALL]
    for laid_out in ("false", "true") if name != "Viewed" else ("false",):
        result = run([*words, f"channels_last={laid_out}"])
        assert result.seconds_train > 0
        *_, weights = (p for p in result.model.parameters() if p.dim() > 3)
        last = laid_out == "true" and name == "lazy"  # of 2-D convolutions only
        assert weights.dim() == 5 or weights.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ValueWrong", "expected other images"),
        ("NameWrong", "NameError: name 'selfx' is not defined"),
        ("Two", r"TypeError: .*missing 1 required positional argument: 'y'"),
        ("Unready", r"NotImplementedError: .*missing the required \"forward\" function"),
        ("Viewed", r"view size is not compatible .* Or set channels_last=false\."),
    ],
)
@pytest.mark.parametrize("benchmark", ["permuted_digits", "split_digits"])
def test_a_model_that_takes_no_images_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: str, benchmark: str
) -> None:
    own(tmp_path, monkeypatch, "mgem_models", MODELS)
    words = ["model=custom", f"model._target_=mgem_models.{name}", "channels_last=true", *SMALL]
    said = rf"^model \(mgem_models\.{name}\): it takes no images of shape \[1, 8, 8\]: {error}$"
    with pytest.raises(UserError, match=said) as raised:
        run([*words, f"benchmark={benchmark}"])
    assert "\n" not in str(raised.value)


def test_arguments_that_a_class_does_not_take_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "class Net:\n    def __init__(self, hidden, params=None): pass\n"
    own(tmp_path, monkeypatch, "mgem_net", source)

    def said(values: dict[str, Any], **objects: Any) -> str:
        with pytest.raises(UserError) as error:
            build("model", OmegaConf.create({"_target_": "mgem_net.Net", **values}), object, **objects)
        return str(error.value)

    one = "model.hiden=3: mgem_net.Net takes no 'hiden'; did you mean 'hidden'? allowed are hidden, params"
    assert said({"hiden": 3}) == one
    assert said({"a": 3, "b": 1, "c": 1}, params=[]) == (
        "model.a=3: mgem_net.Net takes no 'a', and none of b, c; model=custom begins without arguments; "
        "allowed are hidden"
    )
    lacks = "model (mgem_net.Net): it must take device, plugins too, which mgem gives it"
    assert said({"hidden": 3}, device="cpu", plugins=[]) == lacks
