"""What is measured for which logger."""

from pathlib import Path

import pytest
from avalanche.logging import BaseLogger, InteractiveLogger, TextLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_mgem.experiment import UserError, compose, run
from avalanche_mgem.experiment.evaluator import make_evaluator
from avalanche_mgem.loggers import CSVLogger, TensorboardLogger, WandBLogger
from avalanche_mgem.runs import makes_another_run

SMALL = ("benchmark.n_experiences=2", "samples_per_experience=40", "test_samples_per_experience=40")
MINIBATCHES = {"Loss_MB", "Top1_Acc_MB"}


def test_minibatches_are_measured_only_for_a_logger_that_shows_them(tmp_path: Path) -> None:
    cfg = compose()
    assert cfg.log_every == 50

    def measured(*loggers: BaseLogger) -> set[str]:
        return {str(metric) for metric in make_evaluator(cfg, loggers).metrics} & MINIBATCHES

    assert measured() == set()
    assert measured(TextLogger(), InteractiveLogger(), CSVLogger(str(tmp_path))) == set()
    for logger in (WandBLogger(), TensorboardLogger(str(tmp_path / "a")), BaseLogger()):
        assert measured(TextLogger(), logger) == MINIBATCHES
    cfg.log_every = None
    assert measured(WandBLogger()) == set()


def test_tensorboard_gets_minibatches_by_their_number(tmp_path: Path) -> None:
    run(["strategy=naive", "logger=tensorboard", "log_every=3", *SMALL], tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    for name in MINIBATCHES:
        steps = [event.step for event in events.Scalars(f"{name}/train_phase/train_stream/Task000")]
        assert steps == [0, 3, 6]  # of two times four minibatches
    with pytest.raises(UserError, match="log_every=0: it must be an integer, at least 1 or null"):
        run(["strategy=naive", "log_every=0", *SMALL])


def test_what_is_shown_and_logged_makes_no_other_run() -> None:
    assert not any(makes_another_run(key) for key in ("progress", "log_every", "logger.wandb.mode"))
