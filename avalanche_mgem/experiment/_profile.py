"""``mgem profile``: where the time of a training step goes, and that of an evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from avalanche_mgem.experiment._prepare import loader_options, prepare
from avalanche_mgem.experiment.configuration import check_composed
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.runner import explained, make_strategy, parts_to_train
from avalanche_mgem.plugins import MGEMPlugin
from avalanche_mgem.runs import UserError
from avalanche_mgem.timing import Timeline, Times, wait_for

_DATA, _GRADIENT, _OPTIMIZER, _NETWORK, _OTHER = "data", "current gradient", "optimizer", "network", "other"
_PROJECTION = ("references", "gram", "solver", "combine")  # as our plugin and the projection name them

# The phase that begins with a hook of Avalanche's loop. The first plugin switches to it, so that the work of
# the other plugins in that hook is "other", except for the phases that they name themselves.
_FIRST = dict.fromkeys(
    (
        "before_training_iteration", "after_forward", "before_backward", "after_backward", "after_update",
        "before_eval_iteration", "after_eval_forward", "after_eval_iteration", "after_eval_exp",
    ),
    _OTHER,
)  # fmt: skip
# The phase that begins after the other plugins are done with the hook. The last plugin switches to it.
_LAST = {
    "before_forward": _GRADIENT,
    "after_forward": _GRADIENT,  # the loss
    "before_backward": _GRADIENT,
    "before_update": _OPTIMIZER,
    "before_eval_exp": _DATA,
    "before_eval_forward": _NETWORK,
    "after_eval_forward": _NETWORK,  # the loss
    "after_eval_iteration": _DATA,
}


@dataclass(frozen=True, repr=False)
class Profile:
    """What was measured.

    Attributes:
        steps: the measured steps of the last experience, one after another.
        step_phases: the phases that a step of this strategy has, in order.
        evaluation: one evaluation of the whole test stream.
        samples: how many that were.
        description: of the model and the constraints.
    """

    steps: Sequence[Times]
    step_phases: Sequence[str]
    evaluation: Times
    samples: int
    description: str

    def __repr__(self) -> str:
        return f"Profile({len(self.steps)} steps, {self.samples} test samples; {self.description!r})"


def profile(cfg: DictConfig) -> Profile:
    """Trains on each experience for a few steps; measures those of the last one, and one evaluation.

    Args:
        cfg: a configuration, with ``steps`` to measure on top of ``warmup`` steps.

    Raises:
        UserError: if the configuration does not fit, or the last experience ends within the warm-up.
        ValueError, FloatingPointError: from the strategy in training.
    """
    for key, minimum in (("steps", 1), ("warmup", 0)):
        if not isinstance(cfg[key], int) or isinstance(cfg[key], bool) or cfg[key] < minimum:
            raise UserError(f"{key}={cfg[key]}: it must be an integer, at least {minimum}")
    if cfg.get("logger"):
        raise UserError(f"logger={','.join(cfg.logger)}: a profile is not logged; leave it out")
    if cfg.save_model is not False:
        raise UserError(f"save_model={cfg.save_model}: a profile keeps no model; leave it out")
    steps, warmup = cfg.steps, cfg.warmup
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("steps", "warmup")])
    check_composed(cfg)
    cfg, benchmark = prepare(cfg)
    options = loader_options(cfg)
    tests = list(benchmark.test_stream)  # once: it looks for the classes of each experience anew
    wait = partial(wait_for, cfg.device)
    progress = ProgressBar(is_on=cfg.progress, has_lines=False)
    with progress, Timeline(wait) as timeline, explained(cfg):
        strategy = make_strategy(cfg, benchmark, progress)
        probe = _Probe(timeline, limit=warmup + steps)
        strategy.plugins.insert(0, _switches(timeline, _FIRST))
        strategy.plugins += [_switches(timeline, _LAST), probe]
        parts = parts_to_train(strategy, benchmark)
        progress.begin(len(parts), len(benchmark.train_stream))
        for number, part in enumerate(parts):
            progress.train(number)
            strategy.train(part, eval_streams=[], **options)
        if len(probe.steps) <= warmup:
            raise UserError(
                f"warmup={warmup}: the last experience has {len(probe.steps)} steps, and none is left to "
                "measure; allowed are a smaller warmup, more samples or more train_epochs"
            )
        timeline.take()
        strategy.eval(tests, **options)
        evaluation = timeline.take()
    return Profile(
        steps=probe.steps[warmup:],
        step_phases=[_DATA, _GRADIENT, *(_PROJECTION if MGEMPlugin.of(strategy) else ()), _OPTIMIZER, _OTHER],
        evaluation=evaluation,
        samples=sum(len(experience.dataset) for experience in tests),
        description=_description(strategy, probe.num_constraints),
    )


def print_profile(profile: Profile, title: str) -> None:
    """Prints a table of the step and one of the evaluation."""
    console = Console(width=80, highlight=False, markup=False)
    console.print(f"{title}\n{profile.description}\n")
    console.print(f"One step of the last experience, over {len(profile.steps)} steps:")
    console.print(_step_table(profile))
    seconds = sum(profile.evaluation.seconds.values())
    console.print(f"Evaluation of the test stream, {profile.samples} samples in {seconds:.2f} s:")
    console.print(_evaluation_table(profile))


def _step_table(profile: Profile) -> Table:
    """The table of a step. Shares are those of the means, because medians do not add up."""
    table = _table("phase", "mean ms", "median ms", "share", "calls")
    totals = [sum(step.seconds.values()) for step in profile.steps]
    for name in _names(profile.step_phases, profile.steps):
        times = [step.seconds.get(name, 0.0) for step in profile.steps]
        calls = [step.calls[name] for step in profile.steps]
        share = f"{sum(times) / sum(totals):.1%}"
        table.add_row(name, *_mean_and_median(times), share, f"{mean(calls):.2f}" if any(calls) else "")
    table.add_section()
    table.add_row("all", *_mean_and_median(totals), f"{1:.1%}")
    return table


def _evaluation_table(profile: Profile) -> Table:
    table = _table("phase", "µs a sample", "share")
    seconds = profile.evaluation.seconds
    total = sum(seconds.values())
    for name in _names((_DATA, _NETWORK, _OTHER), [profile.evaluation]):
        value = seconds.get(name, 0.0)
        table.add_row(name, f"{1e6 * value / profile.samples:.2f}", f"{value / total:.1%}")
    table.add_section()
    table.add_row("all", f"{1e6 * total / profile.samples:.2f}", f"{1:.1%}")
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _names(expected: Sequence[str], times: Sequence[Times]) -> Iterable[str]:
    """The phases of a table. Unexpected ones, as of a user's plugin, come last: the rows add up to all."""
    return dict.fromkeys([*expected, *(name for time in times for name in time.seconds)])


def _mean_and_median(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{1e3 * mean(seconds):.3f}", f"{1e3 * median(seconds):.3f}"


def _description(strategy: Any, num_constraints: int) -> str:
    size = sum(p.numel() for p in strategy.model.parameters() if p.requires_grad)
    where = f"device: {strategy.device}, threads: {torch.get_num_threads()}"
    text = f"parameters: {size}, minibatch: {strategy.train_mb_size}, {where}"
    if plugin := MGEMPlugin.of(strategy):
        m = len(plugin.projector.partition.blocks(strategy.model).sizes)
        chosen = plugin.projector.references.chosen
        text += f"\nconstraints K: {num_constraints}, modules m: {m}, references: {chosen}"
    return text


class _Probe:
    """Cuts the timeline into steps; the last of all plugins."""

    def __init__(self, timeline: Timeline, limit: int) -> None:
        self.steps: list[Times] = []
        self.num_constraints = 0
        self._timeline = timeline
        self._limit = limit

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Forgets the steps of the experience before: the last one's are left in the end."""
        if plugin := MGEMPlugin.of(strategy):
            self.num_constraints = _num_constraints(plugin)
        self.steps = []
        self._timeline.switch(_DATA)
        self._timeline.take()

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Ends a step; after enough of them, the training on this experience."""
        self._timeline.switch(_DATA)
        self.steps.append(self._timeline.take())
        if len(self.steps) == self._limit:
            strategy.stop_training()


def _switches(timeline: Timeline, phases: dict[str, str]) -> Any:
    """A plugin that begins a phase in each of these hooks."""

    def switch(name: str, *_: Any, **__: Any) -> None:
        timeline.switch(name)

    return SimpleNamespace(**{hook: partial(switch, name) for hook, name in phases.items()})


def _num_constraints(plugin: MGEMPlugin) -> int:
    experiences = len(plugin.memory)
    if plugin.memory.experiences_per_step is not None:
        experiences = min(experiences, plugin.memory.experiences_per_step)
    return experiences * plugin.memory.num_groups
