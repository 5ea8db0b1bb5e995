from importlib import import_module

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from avalanche_mgem.data import BatchedEvaluation
from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.runner import make_strategy

api = import_module("avalanche_mgem.experiment.api")
SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=30")


def test_a_configuration_comes_back_complete_and_the_benchmark_small() -> None:
    asked = compose("strategy=replay", "device=auto", *SMALL)
    cfg, benchmark = prepare(asked)
    assert OmegaConf.to_container(cfg.inferred) == {
        "num_classes": 10,
        "input_shape": [1, 8, 8],
        "input_size": 64,
        "n_experiences": 2,
        "n_samples": [2874, 720],  # of the whole benchmark
    }
    assert cfg.model.num_classes == 10
    assert cfg.strategy.plugins.replay.mem_size == 2 * 256
    assert cfg.device in ("cpu", "cuda")
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [40, 40]
    assert [len(experience.dataset) for experience in benchmark.test_stream] == [30, 30]
    assert (asked.inferred.num_classes, asked.device) == (None, "auto")


def test_nobody_changes_a_prepared_configuration() -> None:
    cfg, _ = prepare(compose(*SMALL))
    for key in ("seed", "inferred.num_classes", "strategy.memory_strength"):
        with pytest.raises(ReadonlyConfigError):
            OmegaConf.update(cfg, key, 3)


def test_a_prepared_configuration_can_be_run() -> None:
    cfg, _ = prepare(compose("strategy=naive", *SMALL))
    assert len(run(cfg).matrix) == 3
    assert OmegaConf.is_readonly(cfg)


def test_a_mistake_is_named_before_the_benchmark_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("avalanche_mgem.experiment._prepare")
    monkeypatch.setattr(module, "_benchmark", lambda _: pytest.fail("not reached"))
    for word, error in (("train_mb_size=0", "at least 1"), ("benchmark.preload=3", "true or false")):
        with pytest.raises(UserError, match=error):
            prepare(compose(word, *SMALL))


def test_the_loggers_see_the_complete_configuration(monkeypatch, tmp_path) -> None:
    begun: list[dict] = []

    class Logger:
        def begin_run(self, **run) -> None:
            begun.append(run)

        def end_run(self, summary, matrix) -> None:
            assert summary["acc"] == sum(matrix[-1]) / 2

        def log_metrics(self, values) -> None: ...

    monkeypatch.setattr(api, "make_loggers", lambda _: [Logger()])
    monkeypatch.setattr(api, "train_and_evaluate", _without_loggers(api.train_and_evaluate))
    run(["strategy=naive", *SMALL], tmp_path / "run")
    (call,) = begun
    assert call["config"]["model"]["num_classes"] == call["config"]["inferred"]["num_classes"] == 10
    assert (call["name"], call["tags"]) == ("run", ["naive", "permuted_digits"])


def _without_loggers(function):
    return lambda cfg, benchmark, *, seconds_data, **_: function(cfg, benchmark, seconds_data=seconds_data)


def test_the_bytes_that_tests_keep_are_a_key() -> None:
    cfg, benchmark = prepare(compose("strategy=naive", "eval_keep_mib=3", *SMALL))
    strategy = make_strategy(cfg, benchmark, ProgressBar())
    (evaluation,) = (plugin for plugin in strategy.plugins if isinstance(plugin, BatchedEvaluation))
    assert evaluation.keep_bytes == 3 * 2**20
