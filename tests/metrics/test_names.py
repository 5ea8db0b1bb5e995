from avalanche_mgem.metrics import CONSTRAINT_METRICS, constraint_row

METRICS = {
    "ViolatedSteps_Exp/train_phase/train_stream/Task000/Exp001": 0.25,
    "ViolatedSteps_Exp/train_phase/train_stream/Task000/Exp011": 0.5,
    "ViolatedSteps_Epoch/train_phase/train_stream/Task000": 0.75,
    "GapDepth_Exp/train_phase/train_stream/Exp001": 0.125,
    "Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp001": 1.0,
    "CosineWorst_Exp/eval_phase/test_stream/Task000/Exp001": 1.0,
}


def test_a_row_takes_what_training_emitted_for_its_experience():
    assert constraint_row(METRICS, 1) == {"violated_steps": 0.25, "gap_depth": 0.125}
    assert constraint_row(METRICS, 11) == {"violated_steps": 0.5}
    assert constraint_row(METRICS, 0) == {}


def test_the_names_are_columns():
    assert len(set(CONSTRAINT_METRICS)) == 11
    assert all(name.islower() and name.replace("_", "").isalpha() for name in CONSTRAINT_METRICS)
