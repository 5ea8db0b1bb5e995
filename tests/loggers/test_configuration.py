import pytest
import yaml
from avalanche.evaluation.metrics import accuracy_metrics
from hydra.utils import instantiate
from loggers.training import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_mgem.experiment.configuration import compose, config_folder
from avalanche_mgem.runs import Result

LOGGERS = ["csv", "tensorboard", "text", "wandb"]
SWEEP = config_folder() / "wandb_sweep.yaml"


def loggers(choice, folder):
    cfg = compose(f"logger={choice}")
    cfg.output_dir = str(folder)
    return {name: instantiate(node, _convert_="all") for name, node in cfg.logger.items()}


def test_none_by_default():
    assert not compose().get("logger")


def test_the_files_are_those_of_the_loggers():
    assert {path.stem for path in (config_folder() / "logger").glob("*.yaml")} == set(LOGGERS)


@pytest.mark.parametrize("name", LOGGERS)
def test_each_is_built_under_its_own_name(name, here):
    assert list(loggers(name, here)) == [name]


def test_several_at_once(here):
    built = loggers("[wandb,csv,tensorboard]", here)
    assert set(built) == {"wandb", "csv", "tensorboard"}
    built["wandb"].mode = "disabled"
    train(list(built.values()), accuracy_metrics(epoch=True))
    built["wandb"].end_run()
    assert {path.name for path in here.iterdir()} == {"csv", "tensorboard"}


def test_tensorboard_shows_what_was_measured(here):
    logger = loggers("tensorboard", here)["tensorboard"]
    curves = train(logger, accuracy_metrics(epoch=True, experience=True, stream=True))
    logger.writer.close()
    events = EventAccumulator(str(here / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(curves)
    for name, (steps, values) in curves.items():
        assert [event.step for event in events.Scalars(name)] == steps
        assert [event.value for event in events.Scalars(name)] == pytest.approx(values)


def test_the_sweep_file_runs_the_command():
    """Every value becomes an override that the command understands, by W&B's own construction of the line."""
    # Not above: this import takes seconds, and every worker collects this file.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load(SWEEP.read_text())
    parameters = {name: spec.get("values", [spec.get("value")]) for name, spec in sweep["parameters"].items()}
    assert set(parameters) == {"validation", "benchmark", "strategy", "strategy.memory_strength", "seed"}
    for number in range(max(map(len, parameters.values()))):
        chosen = {name: values[number % len(values)] for name, values in parameters.items()}
        variables = create_sweep_command_args({"args": {name: {"value": v} for name, v in chosen.items()}})
        variables |= {"program": [sweep["program"]], "env": ["env"]}
        line: list[str] = []
        for word in create_sweep_command(list(sweep["command"])):
            line += variables[word[2:-1]] if word.startswith("${") else [word]
        assert line[:3] == ["env", "mgem", "logger=wandb"]
        cfg = compose(*line[2:])
        assert (cfg.names.strategy, cfg.names.benchmark) == (chosen["strategy"], chosen["benchmark"])
        values = cfg.strategy.memory_strength, cfg.seed, cfg.validation
        assert values == (chosen["strategy.memory_strength"], chosen["seed"], 0.1)


def test_the_sweep_file_asks_for_a_number_that_a_run_has():
    sweep = yaml.safe_load(SWEEP.read_text())
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": "valid_acc", "goal": "maximize"}
    result = Result([[0.1], [0.9]], 0.0, 0.0, 0.0, None, {}, 0, valid_matrix=[[0.2], [0.8]])
    assert result.summary[sweep["metric"]["name"]] == 0.8
