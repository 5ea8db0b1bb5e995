"""Weights & Biases as a logger of Avalanche's."""

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import wandb
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metric_results import AlternativeValues, TensorImage
from avalanche.logging import BaseLogger
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor

from avalanche_mgem.loggers.axes import AXES, EPOCH, EXPERIENCE, STEP, series_and_axis
from avalanche_mgem.loggers.connection import MODES, finish, start
from avalanche_mgem.loggers.matrix import matrix_media
from avalanche_mgem.runs import WANDB_RUN_ID_FILE

_LONGEST_NAME = 128  # of a run or group: the server refuses longer ones


class WandBLogger(BaseLogger, SupervisedPlugin):  # type: ignore[misc]
    """Logs to W&B: metrics along training steps, epochs and experiences, and what the run came to.

    Numbers and images of metrics keep Avalanche's names, see ``docs/tracking.md``; what W&B cannot draw, such
    as stored weights, is left out. Nothing ever asks for input: without an API key or a server the run is
    offline, and a line on standard error says how to upload it.

    The run begins with the first metric, or with :meth:`begin_run`; an ``EvaluationPlugin`` needs nothing
    else. :meth:`end_run` adds what only the end knows. A pickled logger, as in a checkpoint of Avalanche's,
    goes on with the same run.

    Args:
        project: of W&B; None (default) leaves it to ``WANDB_PROJECT`` or W&B's guess.
        entity: user or team; None leaves it to ``WANDB_ENTITY`` or the account.
        group: of runs that belong together.
        name: of the run; None lets W&B make one up.
        job_type: such as ``"train"``.
        tags: of the run.
        mode: ``"auto"`` (default): what ``WANDB_MODE`` says, else online where an API key is configured, else
            offline. ``"online"``, ``"offline"``, ``"disabled"``: that, whatever ``WANDB_MODE`` says.
        config: hyper-parameters, to sort and filter runs by.
        folder: of the run, for W&B's files and the run's identifier: a run that begins in the same folder
            again goes on as the same run of W&B. None: ``wandb`` in the current folder, no identifier kept.
        save_artifact: whether to upload the files of the folder, not its subfolders, as an artifact.
        timeout: seconds to wait for the server, at the beginning and again at the end (default 30). What is
            not uploaded by then stays on disk for ``wandb sync``.

    Raises:
        ValueError: for an unknown mode; when the run begins, for ``mode="online"`` without an API key,
            ``save_artifact`` without a folder, and what W&B refuses.

    Example:
        >>> logger = WandBLogger("my-project", config={"lr": 0.1})  # doctest: +SKIP
        >>> evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[logger])  # doctest: +SKIP
    """

    def __init__(
        self,
        project: str | None = None,
        *,
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        mode: str = "auto",
        config: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        save_artifact: bool = False,
        timeout: float = 30.0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; allowed are {', '.join(map(repr, MODES))}.")
        self.project = project
        self.entity = entity
        self.group = group
        self.name = name
        self.job_type = job_type
        self.tags = tags
        self.mode = mode
        self.config = config
        self.folder = None if folder is None else Path(folder)
        self.save_artifact = save_artifact
        self.timeout = timeout
        self._run: wandb.Run | None = None
        self._run_id: str | None = None
        self._axes: dict[str, int] = {EPOCH: 0, EXPERIENCE: 0}
        self._defined: set[str] = set()

    @property
    def run(self) -> wandb.Run:
        """The run of W&B, which begins now if it has not."""
        if self._run is None:
            self._run = self._start()
        return self._run

    def begin_run(
        self,
        folder: str | os.PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> None:
        """Begins the run; the arguments stand in for those that the constructor was not given."""
        if self.folder is None and folder is not None:
            self.folder = Path(folder)
        self.config = self.config if self.config is not None else config
        self.name = self.name or name
        self.group = self.group or group
        self.tags = self.tags if self.tags is not None else tags
        self._run = self._start()

    def end_run(
        self, summary: Mapping[str, Any] | None = None, matrix: Sequence[Sequence[float]] | None = None
    ) -> None:
        """Ends the run as a success.

        Args:
            summary: what W&B shows for the run in a table of runs. It replaces W&B's own, the last value of
                each metric, which None leaves.
            matrix: accuracies as in ``accuracy_matrix.csv``, for a table and a heatmap.
        """
        media = {} if matrix is None else matrix_media(matrix)
        if media:
            self.run.log(media)
        if summary is not None:
            shown: Any = self.run.summary  # untyped
            # W&B finds tables and images by their keys in the summary.
            for key in set(shown.keys()) - {*summary, *media}:
                del shown[key]
            shown.update(dict(summary))
        if self.save_artifact:
            self._log_artifact()
        self._finish(0)

    def fail(self) -> None:
        """Ends the run, if it has begun, as a failure."""
        if self._run is not None:
            self._finish(1)

    def log_metrics(self, metric_values: Sequence[Any]) -> None:
        """Logs the values of an event as one row of the history."""
        if metric_values:
            super().log_metrics(metric_values)
            self.run.log(dict(self._axes), commit=True)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Adds a value to the row of its event.

        Args:
            name: Avalanche's.
            value: a number, an image or a figure; anything else is left out.
            x_plot: iterations of training so far, as Avalanche counts them.
        """
        loggable = _loggable(value)
        if loggable is None:
            return
        series, axis = series_and_axis(name)
        if series not in self._defined:
            self.run.define_metric(series, step_metric=axis)
            self._defined.add(series)
        self.run.log({series: loggable, STEP: x_plot}, commit=False)

    def before_training_exp(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Counts experiences as the accuracy matrix does: 0 is the untrained model."""
        self._axes[EXPERIENCE] = strategy.clock.train_exp_counter + 1

    def before_training_epoch(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Counts epochs over all experiences, from 1."""
        self._axes[EPOCH] += 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def _start(self) -> wandb.Run:
        if self.save_artifact and self.folder is None:
            raise ValueError("save_artifact needs a folder, whose files it uploads.")
        run = start(
            self.mode,
            self.timeout,
            **self._place(),
            project=self.project,
            entity=self.entity,
            config=dict(self.config or {}),
            name=self.name and self.name[:_LONGEST_NAME],
            group=self.group and self.group[:_LONGEST_NAME],
            job_type=self.job_type,
            tags=self.tags,
        )
        self._run_id = run.id
        if self.folder is not None and not run.disabled:
            (self.folder / WANDB_RUN_ID_FILE).write_text(f"{run.id}\n", encoding="utf-8")
        if run.sweep_id and self.config:
            # A sweep's `strategy`, "gem", hides the part of ours that holds all values of gem.
            shown: Any = run.config  # untyped
            shown.update({"resolved": {key: v for key, v in self.config.items() if shown.get(key) != v}})
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        self._defined = set()
        return run

    def _place(self) -> dict[str, Any]:
        """Where the run lies, and which run it goes on with."""
        if self.folder is None:
            return {"id": self._run_id}
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / WANDB_RUN_ID_FILE
        return {"dir": self.folder, "id": file.read_text("utf-8").strip() if file.is_file() else self._run_id}

    def _log_artifact(self) -> None:
        assert self.folder is not None
        artifact = wandb.Artifact(f"run-{self.run.id}", type="run")
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):  # a lock
                artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def _finish(self, exit_code: int) -> None:
        finish(self.run, exit_code)
        self._run = None
        self._run_id = None
        self._axes = {EPOCH: 0, EXPERIENCE: 0}


def _loggable(value: Any) -> Any:
    """What W&B takes for a value of a metric, or None."""
    if isinstance(value, AlternativeValues):
        value = value.best_supported_value(float, int, Figure, Image, TensorImage)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, TensorImage):
        value = value.image
    elif not isinstance(value, (Real, Figure, Image)):
        return None
    return value if isinstance(value, Real) else wandb.Image(value)
