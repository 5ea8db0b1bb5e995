import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import wandb
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import AlternativeValues, MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics, loss_metrics
from loggers.training import train
from loggers.wandb_log import read_log, read_logs
from matplotlib.figure import Figure

from avalanche_mgem.loggers import WandBLogger
from avalanche_mgem.loggers.axes import series_and_axis
from avalanche_mgem.loggers.connection import finish

MATRIX = [[0.1, 0.125], [0.75, 0.25], [0.5, 1.0]]
SUMMARY = {"acc": 0.75, "bwd": -0.25, "forgetting": None, "strategy": "gem", "seed": 0}
FROM_WANDB = {"_wandb", "_runtime", "accuracy_matrix", "accuracy_heatmap"}


class Violations(PluginMetric):
    """Emits the number of the experience after its training, as metrics of the constraints do."""

    def result(self):
        return None

    def reset(self):
        return None

    def after_training_exp(self, strategy):
        name = get_metric_name("Violations_Exp", strategy, add_experience=True, add_task=True)
        number = float(strategy.experience.current_experience)
        return [MetricValue(self, name, number, strategy.clock.train_iterations)]


def test_every_value_is_logged_along_its_axis(here):
    logger = WandBLogger()
    curves = train(
        logger,
        accuracy_metrics(minibatch=True, epoch=True, epoch_running=True, experience=True, stream=True),
        loss_metrics(minibatch=True, epoch=True),
        bwt_metrics(experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
    )
    logger.end_run()
    log = read_log(here)
    assert len(curves) > 10
    for name, (steps, values) in curves.items():
        assert log.curve(name, "train/step") == list(zip(steps, values, strict=True))
        assert log.axes[name] == series_and_axis(name)[1]
    assert [x for x, _ in log.curve("Loss_MB/train_phase/train_stream/Task000", "train/step")] == [*range(16)]
    assert [x for x, _ in log.curve("Loss_Epoch/train_phase/train_stream/Task000", "train/epoch")] == [
        1,
        2,
        3,
        4,
    ]
    for name in ("Top1_Acc_Stream/eval_phase/test_stream/Task000", "StreamBWT/eval_phase/test_stream"):
        assert [x for x, _ in log.curve(name, "experiences_trained")] == [0, 1, 2]
    assert log.axes.items() >= {"train/step": "", "train/epoch": "", "experiences_trained": ""}.items()


def test_the_values_of_one_event_are_one_row(here):
    logger = WandBLogger()
    train(logger, accuracy_metrics(minibatch=True), loss_metrics(minibatch=True))
    logger.end_run()
    assert len(read_log(here).history) == 16


def test_metrics_of_trained_experiences_are_one_curve(here):
    logger = WandBLogger()
    train(logger, Violations())
    logger.end_run()
    log = read_log(here)
    assert log.curve("Violations_Exp/train_phase/train_stream", "experiences_trained") == [(1, 0.0), (2, 1.0)]


def test_images_are_logged_and_the_rest_is_left_out(here):
    logger = WandBLogger()
    figure = AlternativeValues(torch.zeros(2, 2), Figure())
    logger.log_single_metric("figure", figure, 0)
    logger.log_single_metric("scalar", torch.tensor(0.5), 0)
    logger.log_single_metric("weights", b"bytes", 0)
    logger.end_run()
    (row,) = read_log(here).history
    assert row["figure/_type"] == "image-file"
    assert (files_of_run(here) / row["figure/path"]).is_file()
    assert row["scalar"] == 0.5
    assert "weights" not in row


def files_of_run(folder: Path) -> Path:
    (files,) = folder.glob("wandb/offline-run-*/files")
    return files


def test_a_run_of_the_command(here, capfd):
    """What the runner hands over is in the run, but where the configuration of the logger says otherwise."""
    config = {
        "strategy": {"_target_": "avalanche_mgem.MGEM", "memory_strength": 0.5},
        "seed": 0,
        "size": None,
    }
    logger = WandBLogger("p", entity="e", job_type="train", tags=["own"])
    logger.begin_run(here / "run", config, name="seed0", group="sweep", tags=["gem", "permuted_digits"])
    train(logger, accuracy_metrics(epoch=True, experience=True))
    logger.end_run(SUMMARY, MATRIX)

    log = read_log(here / "run")
    assert log.config == config
    found = {
        key: getattr(log.run, key) for key in ("project", "entity", "job_type", "run_group", "display_name")
    }
    assert list(found.values()) == ["p", "e", "train", "sweep", "seed0"]
    assert list(log.run.tags) == ["own"]
    assert log.exit_code == 0
    assert not (here / "wandb").exists()
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(
        "W&B: no API key is configured, so this run is offline; upload it with: wandb sync "
    )
    assert list(Path(line.split()[-1]).glob("*.wandb"))


def test_the_summary_is_that_of_the_run(here):
    logger = WandBLogger()
    logger.begin_run(here / "run")
    train(logger, accuracy_metrics(epoch=True, experience=True))
    logger.end_run(SUMMARY, MATRIX)
    summary = read_log(here / "run").summary
    assert {key: value for key, value in summary.items() if key not in FROM_WANDB} == SUMMARY
    assert summary.keys() >= {"accuracy_matrix", "accuracy_heatmap"}  # their panels look for them here


def test_before_its_end_a_run_of_the_command_has_no_other_summary(here):
    logger = WandBLogger()
    logger.begin_run(here / "run")
    train(logger, accuracy_metrics(minibatch=True, epoch=True, experience=True), loss_metrics(minibatch=True))
    logger.fail()
    assert {*read_log(here / "run").summary} <= {"_wandb", "_runtime", "_step", "_timestamp"}


def test_without_a_summary_the_last_values_stay(here):
    logger = WandBLogger()
    curves = train(logger, accuracy_metrics(epoch=True, stream=True))
    logger.end_run()
    summary = read_log(here).summary
    assert len(curves) == 2
    assert all(summary[name] == values[-1] for name, (_, values) in curves.items())


def test_the_matrix_is_a_table_and_an_image(here):
    logger = WandBLogger()
    logger.end_run(matrix=MATRIX)
    (row,) = read_log(here).history
    table = json.loads((files_of_run(here) / row["accuracy_matrix/path"]).read_text())
    assert table["columns"] == ["experiences_trained", "exp_0", "exp_1"]
    assert table["data"] == [[number, *values] for number, values in enumerate(MATRIX)]
    assert (files_of_run(here) / row["accuracy_heatmap/path"]).read_bytes().startswith(b"\x89PNG")


def test_a_failure_is_one(here):
    logger = WandBLogger()
    logger.begin_run(here / "run")
    logger.fail()
    assert read_log(here / "run").exit_code == 1
    logger.fail()  # not begun any more: nothing to end
    assert len(read_logs(here / "run")) == 1


def test_the_same_folder_goes_on_with_the_same_run(here):
    for ending in ("fail", "end_run"):
        logger = WandBLogger()
        logger.begin_run(here / "run")
        getattr(logger, ending)()
        wandb.teardown()  # as at the end of a process
    first, second = read_logs(here / "run")
    assert first.run.run_id == second.run.run_id == (here / "run/wandb_run_id.txt").read_text().strip()
    assert second.run.resume


def test_the_identifier_is_there_as_a_whole_or_as_it_was(here, monkeypatch):
    (here / "run").mkdir()
    (here / "run/wandb_run_id.txt").write_text("before\n")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"wandb_run_id\.txt"):
        WandBLogger().begin_run(here / "run")
    wandb.teardown()
    assert (here / "run/wandb_run_id.txt").read_text() == "before\n"


def test_a_pickled_logger_goes_on_with_the_same_run(here):
    logger = WandBLogger()
    train(logger, accuracy_metrics(epoch=True))
    copy = pickle.loads(pickle.dumps(logger))
    logger.end_run()
    wandb.teardown()  # as at the end of a process
    train(copy, accuracy_metrics(epoch=True))
    copy.end_run()
    first, second = read_logs(here)
    assert first.run.run_id == second.run.run_id
    assert [x for x, _ in second.curve("Top1_Acc_Epoch/train_phase/train_stream/Task000", "train/epoch")] == [
        5,
        6,
        7,
        8,
    ]


def test_runs_of_one_process_keep_apart(here):
    folders = [here / str(number) for number in range(3)]
    for number, folder in enumerate(folders):
        logger = WandBLogger()
        logger.begin_run(folder, {"number": number}, name=f"run {number}")
        logger.log_single_metric("value", number, 0)
        logger.end_run({"acc": number})
    logs = [read_log(folder) for folder in folders]
    assert [log.curve("value", "train/step") for log in logs] == [[(0, number)] for number in range(3)]
    assert [log.summary["acc"] for log in logs] == [0, 1, 2]
    assert [log.config for log in logs] == [{"number": number} for number in range(3)]
    assert len({log.run.run_id for log in logs}) == 3


def test_a_run_of_the_scripts_own_is_left_alone(here, capfd):
    own = wandb.init(mode="offline", dir=here, settings=wandb.Settings(silent=True))
    logger = WandBLogger(folder=here / "run")
    logger.log_single_metric("value", 1.0, 0)
    logger.end_run()
    own.log({"theirs": 2.0})
    own.finish()
    assert read_log(here / "run").curve("value", "train/step") == [(0, 1.0)]
    assert [row["theirs"] for row in read_log(here).history] == [2.0]
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_names_are_no_longer_than_the_server_allows(here):
    logger = WandBLogger()
    logger.begin_run(here / "run", name="n" * 200, group="g" * 200)
    logger.end_run()
    run = read_log(here / "run").run
    assert (len(run.display_name), len(run.run_group)) == (128, 128)


def test_an_upload_that_takes_too_long_is_said(here, capfd):
    class Slow:
        settings = wandb.Settings(root_dir=str(here))

        def finish(self, exit_code):
            raise TimeoutError

    finish(Slow(), 0)
    assert capfd.readouterr().err.startswith("W&B: not all of the run was uploaded in time; upload it with: ")


def test_nothing_begins_before_there_is_something_to_log(here):
    logger = WandBLogger()
    logger.log_metrics([])
    logger.fail()
    assert list(here.iterdir()) == []


def test_the_files_of_the_folder_as_an_artifact(here):
    (here / "run/csv").mkdir(parents=True)
    for name in ("summary.json", "config.yaml", ".lock", "csv/eval_results.csv"):
        (here / "run" / name).write_text("x")
    logger = WandBLogger(save_artifact=True)
    logger.begin_run(here / "run")
    logger.end_run(SUMMARY)
    assert read_log(here / "run").artifacts == {"run": {"summary.json", "config.yaml", "wandb_run_id.txt"}}
    with pytest.raises(ValueError, match="save_artifact needs a folder"):
        WandBLogger(save_artifact=True).begin_run()


# W&B's client does not close the file.
@pytest.mark.filterwarnings("ignore:.*parameters.yaml:pytest.PytestUnraisableExceptionWarning")
def test_in_a_sweep_of_wandb_the_run_is_the_sweeps(here, monkeypatch):
    (here / "parameters.yaml").write_text("strategy: {value: gem}\nseed: {value: 3}\n")
    sweep = {"SWEEP_ID": "s", "RUN_ID": "given", "PROJECT": "theirs", "SWEEP_PARAM_PATH": "parameters.yaml"}
    for name, value in sweep.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = WandBLogger("ours")
    strategy = {"memory_strength": 0.5}
    logger.begin_run(here / "run", {"strategy": strategy, "seed": 3, "size": 10})
    logger.end_run()
    log = read_log(here / "run")
    assert (log.run.sweep_id, log.run.run_id, log.run.project) == ("s", "given", "theirs")
    assert log.config == {"strategy": "gem", "seed": 3, "size": 10, "resolved": {"strategy": strategy}}


def test_wandb_mode_is_respected(here, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandBLogger()
    logger.begin_run(here / "run")
    train(logger, accuracy_metrics(epoch=True))
    logger.end_run(SUMMARY, MATRIX)
    assert list((here / "run").iterdir()) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger.begin_run()
    logger.end_run()
    assert read_log(here / "run").exit_code == 0
    assert capfd.readouterr() == ("", "")  # asked for
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(
        ValueError, match="WANDB_MODE='of': allowed are 'auto', 'online', 'offline', 'disabled'"
    ):
        logger.begin_run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "onlin"}, "mode is 'onlin'; allowed are 'auto'"),
        ({"mode": "online"}, "mode='online' needs an API key: run `wandb login`"),
        ({"project": "a/b"}, "W&B: Invalid project name 'a/b'"),
    ],
)
def test_mistakes_are_named_in_one_line(here, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        WandBLogger(**options).begin_run()
    assert "\n" not in str(caught.value)


def test_a_key_that_cannot_be_one(here, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(ValueError, match="WANDB_API_KEY invalid") as caught:
        WandBLogger().begin_run()
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_does_not_end_the_run(here, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nothing listens
    (here / "run").mkdir()
    (here / "run/wandb_run_id.txt").write_text("before\n")
    logger = WandBLogger(timeout=1)
    logger.begin_run(here / "run")
    logger.log_single_metric("value", 1.0, 0)
    logger.end_run(SUMMARY)
    log = read_log(here / "run")
    assert log.run.run_id == "before"
    assert log.curve("value", "train/step") == [(0, 1.0)]
    assert log.exit_code == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B: ")]
    assert line.startswith("W&B: the server is not reached (")
    assert "so this run is offline; upload it with: wandb sync " in line


SCRIPT = """
import os
import wandb
from avalanche_mgem.loggers import WandBLogger

WandBLogger(folder="terminal").log_single_metric("value", 1.0, 0)
wandb.teardown()  # as at the end of a process
os.close(0)
WandBLogger(folder="closed").log_single_metric("value", 2.0, 0)
raise OSError
"""


@pytest.mark.slow
def test_nothing_is_asked_without_a_key(here):
    """W&B's client would ask for a key on a terminal, and raise without one. The script ends no run."""
    terminal, its_end = os.openpty()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    (here / "home").mkdir()
    environment |= {"HOME": str(here / "home"), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=here, env=environment, timeout=60, check=False, stdin=its_end, stdout=its_end, stderr=its_end,
    )  # fmt: skip
    os.close(its_end)
    said = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert said.count("W&B: no API key is configured, so this run is offline") == 2
    assert "wandb login" not in said
    for number, name in enumerate(("terminal", "closed"), start=1):
        assert read_log(here / name).curve("value", "train/step") == [(0, number)]
    assert done.returncode == read_log(here / "closed").exit_code == 1
