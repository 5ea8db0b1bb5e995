import pytest

from avalanche_mgem.loggers.axes import series_and_axis

TRAIN = "train_phase/train_stream"
TEST = "eval_phase/test_stream"


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        (f"Top1_Acc_MB/{TRAIN}/Task000", "train/step"),
        (f"Top1_RunningAcc_Epoch/{TRAIN}/Task000", "train/step"),
        (f"Loss_Epoch/{TRAIN}/Task003", "train/epoch"),
        (f"Top1_Acc_Exp/{TEST}/Task000/Exp002", "experiences_trained"),
        (f"Top1_Acc_Stream/{TEST}/Task000", "experiences_trained"),
        (f"StreamBWT/{TEST}", "experiences_trained"),
        ("mine", "train/step"),
    ],
)
def test_names_stay_and_tell_the_axis(name, axis):
    assert series_and_axis(name) == (name, axis)


@pytest.mark.parametrize("number", ["Task000/Exp000", "Task002/Exp002", "Exp013"])
def test_trained_experiences_share_one_curve(number):
    for rest in ("", "/share"):
        curve = (f"Violations_Exp/{TRAIN}{rest}", "experiences_trained")
        assert series_and_axis(f"Violations_Exp/{TRAIN}/{number}{rest}") == curve
