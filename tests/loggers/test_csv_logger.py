import csv
import gc

from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from loggers.training import train

from avalanche_mgem.loggers import CSVLogger


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_it_writes_what_was_measured(tmp_path):
    logger = CSVLogger(str(tmp_path))
    curves = train(
        logger,
        accuracy_metrics(epoch=True, experience=True),
        loss_metrics(epoch=True, experience=True),
        forgetting_metrics(experience=True),
    )
    epochs = rows(tmp_path / "training_results.csv")
    assert [(row["training_exp"], row["epoch"]) for row in epochs] == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]
    for name, column in (("Top1_Acc_Epoch", "training_accuracy"), ("Loss_Epoch", "training_loss")):
        _, values = curves[f"{name}/train_phase/train_stream/Task000"]
        assert [row[column] for row in epochs] == [f"{value:.4f}" for value in values]
    tests = rows(tmp_path / "eval_results.csv")
    assert [row["training_exp"] for row in tests] == ["None", "None", "0", "0", "1", "1"]
    for name, column in (("Top1_Acc_Exp", "eval_accuracy"), ("Loss_Exp", "eval_loss")):
        for number in range(2):
            _, values = curves[f"{name}/eval_phase/test_stream/Task000/Exp00{number}"]
            assert [row[column] for row in tests[number::2]] == [f"{value:.4f}" for value in values]
    _, (forgetting,) = curves["ExperienceForgetting/eval_phase/test_stream/Task000/Exp000"]
    assert tests[4]["forgetting"] == f"{forgetting:.4f}"


def test_its_files_are_closed_with_it(tmp_path):
    logger = CSVLogger(str(tmp_path))
    files = [logger.training_file, logger.eval_file]
    del logger
    gc.collect()
    assert all(file.closed for file in files)
