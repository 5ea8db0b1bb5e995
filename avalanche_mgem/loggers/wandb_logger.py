"""A Weights & Biases logger for Avalanche."""

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

from avalanche_mgem.loggers.axes import AXES, EPOCH, STEP, TRAINED, series_and_axis
from avalanche_mgem.loggers.connection import MODES, finish, start
from avalanche_mgem.loggers.matrix import matrix_media
from avalanche_mgem.runs import WANDB_RUN_ID_FILE, write_whole

_LONGEST_NAME = 128  # characters; the server refuses longer names of runs and groups


class WandBLogger(BaseLogger, SupervisedPlugin):  # type: ignore[misc]
    """Logs metrics to W&B along training steps, epochs and experiences, and the results of the run.

    Metrics keep Avalanche's names, see ``docs/tracking.md``. Numbers and images are logged; values that W&B
    cannot draw, such as stored weights, are left out. Nothing ever asks for input. Without an API key or a
    server the run is offline, and a line on standard error says how to upload it.

    The run begins with the first metric or with :meth:`begin_run`. So an ``EvaluationPlugin`` needs nothing
    but this logger. :meth:`end_run` adds the results. A logger that was pickled, as in a checkpoint of
    Avalanche's, continues the same run.

    Args:
        project: project in W&B. None (default) takes ``WANDB_PROJECT``, or W&B chooses.
        entity: user or team. None (default) takes ``WANDB_ENTITY`` or the account.
        group: name that joins several runs.
        name: name of the run. None (default) lets W&B choose.
        job_type: such as ``"train"``.
        tags: tags of the run.
        mode: ``"auto"`` (default) takes the mode in ``WANDB_MODE``. Without that variable the run is online
            if an API key is configured, and offline if not. ``"online"``, ``"offline"`` and ``"disabled"``
            overrule ``WANDB_MODE``.
        config: hyper-parameters, by which W&B can sort and filter runs.
        folder: folder for W&B's files and the run's identifier. A run that begins in the same folder again
            continues the same run of W&B. None (default) is ``wandb`` in the current folder, and no
            identifier is kept.
        save_artifact: whether to upload the files of ``folder`` as an artifact. Its subfolders are left out.
        timeout: seconds to wait for the server (default 30), at the beginning and again at the end. Data
            that is not uploaded by then stays on disk for ``wandb sync``.

    Raises:
        ValueError: for an unknown mode. When the run begins: for ``mode="online"`` without an API key, for
            ``save_artifact`` without a folder, and for options that W&B refuses.

    Example:
        >>> from avalanche.evaluation.metrics import accuracy_metrics
        >>> from avalanche.training.plugins import EvaluationPlugin
        >>> logger = WandBLogger("my-project", config={"lr": 0.1})
        >>> evaluator = EvaluationPlugin(*accuracy_metrics(stream=True), loggers=[logger])
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
        self._axes: dict[str, int] = {EPOCH: 0, TRAINED: 0}
        self._defined: set[str] = set()
        self._has_summary = False

    @property
    def run(self) -> wandb.Run:
        """The run of W&B. It begins now if it has not begun."""
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
        """Begins the run, whose summary will be what :meth:`end_run` gets, and nothing else.

        Each argument is used only if the constructor did not get it.
        """
        self._has_summary = True
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
            summary: the values that W&B shows in its table of runs. None keeps W&B's own summary, which is
                the last value of each metric.
            matrix: accuracies as in ``accuracy_matrix.csv``. W&B gets them as a table and as a heatmap.
        """
        media = {} if matrix is None else matrix_media(matrix)
        if media:
            self.run.log(media)
        if summary is not None:
            shown: Any = self.run.summary  # untyped
            # The keys of tables and images must stay: W&B finds them through the summary.
            for key in set(shown.keys()) - {*summary, *media}:
                del shown[key]
            shown.update(dict(summary))
        if self.save_artifact:
            self._log_artifact()
        self._finish(0)

    def fail(self) -> None:
        """Ends the run as a failure, if it has begun."""
        if self._run is not None:
            self._finish(1)

    def log_metrics(self, metric_values: Sequence[Any]) -> None:
        """Logs the values of one event as one row of W&B's history."""
        if metric_values:
            super().log_metrics(metric_values)
            self.run.log(dict(self._axes), commit=True)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Adds a value to the row of its event.

        Args:
            name: Avalanche's name of the metric.
            value: a number, an image or a figure. Anything else is left out.
            x_plot: training iterations so far, as Avalanche counts them.
        """
        loggable = _loggable(value)
        if loggable is None:
            return
        series, axis = series_and_axis(name)
        if series not in self._defined:
            self.run.define_metric(series, step_metric=axis, summary=self._of_summary())
            self._defined.add(series)
        self.run.log({series: loggable, STEP: x_plot}, commit=False)

    def before_training_exp(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Counts the trained experiences, with this one: 0 is the untrained model."""
        self._axes[TRAINED] = strategy.clock.train_exp_counter + 1

    def before_training_epoch(self, strategy: Any, *_: Any, **__: Any) -> None:
        """Counts epochs over all experiences, from 1."""
        self._axes[EPOCH] += 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        is_running = vars(self).get("_run") is not None  # it has begun already: only the axes go on
        self.__dict__.update({"_axes": state["_axes"]} if is_running else state)

    def _start(self) -> wandb.Run:
        if self.save_artifact and self.folder is None:
            raise ValueError("save_artifact needs a folder: it uploads the folder's files.")
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
            write_whole(self.folder / WANDB_RUN_ID_FILE, f"{run.id}\n")
        if run.sweep_id and self.config:
            # In a sweep W&B's parameter `strategy` is the name "gem". It hides our part `strategy` with all
            # its settings. So everything that W&B hides is logged once more, under `resolved`.
            shown: Any = run.config  # untyped
            shown.update({"resolved": {key: v for key, v in self.config.items() if shown.get(key) != v}})
        for axis in AXES:
            run.define_metric(axis, hidden=True, summary=self._of_summary())
        self._defined = set()
        return run

    def _of_summary(self) -> str | None:
        """What W&B makes of a metric in the summary; None is its own choice, the last value."""
        return "none" if self._has_summary else None

    def _place(self) -> dict[str, Any]:
        """The folder of the run, and the identifier of the run that it continues."""
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
            if path.is_file() and not path.name.startswith("."):  # such as a lock
                artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def _finish(self, exit_code: int) -> None:
        finish(self.run, exit_code)
        self._run = None
        self._run_id = None
        self._axes = {EPOCH: 0, TRAINED: 0}


def _loggable(value: Any) -> Any:
    """The value in a form that W&B can log, or None if there is none."""
    if isinstance(value, AlternativeValues):
        value = value.best_supported_value(float, int, Figure, Image, TensorImage)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, TensorImage):
        value = value.image
    elif not isinstance(value, (Real, Figure, Image)):
        return None
    return value if isinstance(value, Real) else wandb.Image(value)
