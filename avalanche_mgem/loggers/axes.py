"""The name and the axis under which W&B draws a metric of Avalanche's."""

import re

STEP, EPOCH, TRAINED = AXES = ("train/step", "train/epoch", "experiences_trained")

# The name of a metric that is emitted after the training of an experience has that experience's number.
_TRAINED_EXPERIENCE = re.compile(r"(/train_phase/[^/]+)(?:/Task\d+)?/Exp\d+")


def series_and_axis(name: str) -> tuple[str, str]:
    """The name of a metric's curve, and its axis.

    The name is Avalanche's. Only metrics of a trained experience lose the experience's number: a curve along
    the experiences needs one name for all of them.

    Example:
        >>> series_and_axis("Loss_MB/train_phase/train_stream/Task000")
        ('Loss_MB/train_phase/train_stream/Task000', 'train/step')
        >>> series_and_axis("Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp002")
        ('Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp002', 'experiences_trained')
        >>> series_and_axis("Time_Exp/train_phase/train_stream/Task000/Exp002")
        ('Time_Exp/train_phase/train_stream', 'experiences_trained')
    """
    series, is_of_experience = _TRAINED_EXPERIENCE.subn(r"\1", name)
    if is_of_experience or "/eval_phase/" in name:
        return series, TRAINED
    # "Running" metrics have "_Epoch" in their name, but are emitted after each minibatch.
    return series, EPOCH if "_Epoch/" in name and "Running" not in name else STEP
