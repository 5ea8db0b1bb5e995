"""Under which name, and along which axis, a metric of Avalanche's is drawn."""

import re

STEP, EPOCH, EXPERIENCE = AXES = ("train/step", "train/epoch", "experience")

# What is emitted after the training of an experience has its number in its name.
_TRAINED_EXPERIENCE = re.compile(r"(/train_phase/[^/]+)(?:/Task\d+)?/Exp\d+")


def series_and_axis(name: str) -> tuple[str, str]:
    """The name of the curve that a value belongs to, and its axis.

    Names stay Avalanche's, but for metrics of trained experiences: a curve along the experiences needs one
    name for all of them.

    Example:
        >>> series_and_axis("Loss_MB/train_phase/train_stream/Task000")
        ('Loss_MB/train_phase/train_stream/Task000', 'train/step')
        >>> series_and_axis("Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp002")
        ('Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp002', 'experience')
        >>> series_and_axis("Time_Exp/train_phase/train_stream/Task000/Exp002")
        ('Time_Exp/train_phase/train_stream', 'experience')
    """
    series, is_of_experience = _TRAINED_EXPERIENCE.subn(r"\1", name)
    if is_of_experience or "/eval_phase/" in name:
        return series, EXPERIENCE
    # "Running" ones are emitted after each minibatch.
    return series, EPOCH if "_Epoch/" in name and "Running" not in name else STEP
