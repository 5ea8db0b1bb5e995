"""A study, from Python or from the command."""

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.trial import Trial

from avalanche_mgem.experiment._files import config_folder
from avalanche_mgem.experiment._prepare import prepare
from avalanche_mgem.experiment._quiet import quiet
from avalanche_mgem.experiment._signals import KeptStudy
from avalanche_mgem.experiment.configuration import compose
from avalanche_mgem.experiment.errors import say
from avalanche_mgem.experiment.progress import ProgressBar
from avalanche_mgem.experiment.runner import make_strategy
from avalanche_mgem.experiment.tuning.best import best_name, check_carried, next_command, write_best
from avalanche_mgem.experiment.tuning.figure import write_figure
from avalanche_mgem.experiment.tuning.folder import claim, description
from avalanche_mgem.experiment.tuning.outcome import TRIALS_FILE, Tuned, frame
from avalanche_mgem.experiment.tuning.progress import StudyProgress
from avalanche_mgem.experiment.tuning.settings import Settings, Words, read_settings, split_words
from avalanche_mgem.experiment.tuning.space import Space, check_keys, grid_size, parse, tunable
from avalanche_mgem.experiment.tuning.study import Storage, Study, silence
from avalanche_mgem.experiment.tuning.trial import Benchmarks, first, objectives, with_values
from avalanche_mgem.runs import UserError, one_line, without_secrets, write_whole

_VALIDATION = 0.1  # of each experience's training samples, as configs/tune.yaml has it


def tune(
    words: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    config_dir: str | os.PathLike[str] | None = None,
) -> Tuned:
    """Searches the hyper-parameters of strategies, as the command ``mgem tune`` does.

    The objective is the accuracy on validation samples. No test sample has a part in it.

    Args:
        words: what one would type after ``mgem tune``.
        folder: of the study: new, or that of the same study, which then goes on. None (default) takes
            ``tune.dir``, and without it ``runs/tune/BENCHMARK-STRATEGIES``.
        config_dir: a folder of your own configuration files, as the command's ``--config-dir``.

    Returns:
        The best values of each strategy, and all trials.

    Raises:
        avalanche_mgem.experiment.UserError: in one line, for what the words, the data or the folder have
            wrong, and if no trial was complete.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> words = ["strategy=naive", "samples_per_experience=100", "tune.experiences=2"]
        >>> space = ["tune.sampler=grid", "tune.space.optimizer.lr=[0.0001,0.2]"]
        >>> with TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     tuned = tune([*words, *space], f"{folder}/study")
        naive trial 0 of 0..1: valid ACC 0...
        naive trial 1 of 0..1: valid ACC 0...
        >>> tuned.best["naive"]
        {'optimizer.lr': 0.2}
    """
    if isinstance(words, str):
        raise UserError(f"tune({words!r}): give a list of such words")
    place = None if config_dir is None else Path(config_dir)
    asked = split_words(words)
    settings = read_settings([word for word in asked.own if not word.startswith("strategy=")])
    cfgs = _configurations(asked, place)
    spaces = _spaces(cfgs, settings, place)
    for name, cfg in cfgs.items():
        check_carried(cfg, list(spaces[name]), asked, place)
    some = next(iter(cfgs.values()))
    target = Path(folder or settings.folder or default_folder(some, list(cfgs)))
    with quiet():
        silence()
        benchmarks = Benchmarks()
        for name, cfg in cfgs.items():
            _check(cfg, spaces[name], settings, benchmarks)
        claim(target, description(cfgs, spaces, settings, some.seed))
        storage = Storage(target)
        studies = {name: Study(storage, name, spaces[name], settings, some.seed) for name in cfgs}
        try:
            with storage.working(), StudyProgress() as progress:
                for name, study in studies.items():
                    _work(study, cfgs[name], settings, benchmarks, progress)
            with storage.lock:
                return _finished(target, studies, cfgs, asked, place)
        except KeyboardInterrupt as interrupt:
            raise interrupt from KeptStudy(os.path.relpath(target))


def default_folder(cfg: DictConfig, strategies: Sequence[str]) -> Path:
    """Where the study of these strategies is without ``tune.dir``."""
    name = "-".join([str(cfg.names.benchmark), *strategies])
    return Path("runs", "tune", name.replace("/", "_"))


def _configurations(words: Words, config_dir: Path | None) -> dict[str, DictConfig]:
    """The configuration of each strategy, by its name."""
    cfgs = {}
    for chosen in [[f"strategy={name}"] for name in words.strategies] or [[]]:
        cfg = compose(*words.runs, *chosen, config_dir=config_dir)
        if cfg.get("validation") is None:
            if any(word.startswith("validation=") for word in words.runs):
                raise UserError("validation=null: the objective is measured on such samples; give a fraction")
            cfg.validation = _VALIDATION
        if cfg.get("logger"):
            raise UserError(f"logger={','.join(cfg.logger)}: trials are not logged; leave it out")
        if cfg.save_model is not False:
            raise UserError(f"save_model={cfg.save_model}: the models of trials are not kept; leave it out")
        cfgs[str(cfg.names.strategy)] = cfg
    return cfgs


def _spaces(cfgs: Mapping[str, DictConfig], settings: Settings, config_dir: Path | None) -> dict[str, Space]:
    """What is tried for each strategy: the given keys that it has; if none, what is in tune_spaces.yaml."""
    known = {name: tunable(cfg) for name, cfg in cfgs.items()}
    check_keys(settings.space, {key: value for keys in known.values() for key, value in keys.items()})
    spaces: dict[str, Space] = {}
    for name in cfgs:
        has_some = any(key in known[name] for key in settings.space)
        given = settings.space if has_some else _default_space(name)
        spaces[name] = {key: parse(key, value) for key, value in given.items() if key in known[name]}
        missing = [key for key in {**settings.space, **given} if key not in known[name]]
        lacks = ", ".join(_lack(key, known[name]) for key in missing)
        if not spaces[name]:
            raise UserError(f"strategy={name}: it has {lacks}; give a tune.space.KEY that it has")
        if settings.sampler == "grid":
            grid_size(spaces[name], f"the default space of {name}: " if given is not settings.space else "")
        if missing:
            say(f"{name} has {lacks}; it is tuned over {', '.join(spaces[name])}")
    return spaces


def _lack(key: str, known: Mapping[str, Any]) -> str:
    """That a strategy has no such key, or several values in its place, as those of a schedule."""
    inner = sorted(other for other in known if other.startswith(f"{key}."))
    return f"{' and '.join(inner)} in place of {key}" if inner else f"no {key}"


def _default_space(strategy: str) -> Mapping[str, Any]:
    spaces: Any = OmegaConf.to_container(OmegaConf.load(config_folder() / "tune_spaces.yaml"))
    if strategy not in spaces:
        raise UserError(
            f"strategy={strategy}: there is no space for it in tune_spaces.yaml; give tune.space.KEY=..., "
            "such as tune.space.optimizer.lr='log(0.003,0.3)'"
        )
    return dict(spaces[strategy])


def _check(cfg: DictConfig, space: Space, settings: Settings, benchmarks: Benchmarks) -> None:
    """Finds a mistake in the configuration before any trial, which could only fail.

    A configuration may need a value of the space: ``patterns_per_exp=null`` asks for a ``mem_size``.
    """

    def check(values: Mapping[str, Any]) -> None:
        run, benchmark = prepare(with_values(cfg, values, settings.first_seed), benchmarks)
        make_strategy(run, first(benchmark, settings.experiences), ProgressBar())

    try:
        check({})
    except UserError:
        check({key: part.some for key, part in space.items()})


def _work(
    study: Study, cfg: DictConfig, settings: Settings, benchmarks: Benchmarks, progress: StudyProgress
) -> None:
    """Makes trials until there are enough, or other processes are at the last ones."""
    while True:
        best = study.best
        done = sum(trial.state.is_finished() for trial in study.trials)
        progress.show(study.name, done, study.budget, None if best is None else best.value)
        if (found := study.next()) is None:
            return
        trial, values = found
        end = _made(study, trial, objectives(cfg, settings, values, benchmarks), cfg)
        progress.trial(study.name, trial.number, study.budget, end, values)


def _made(study: Study, trial: Trial, runs: Generator[float], cfg: DictConfig) -> str:
    """Makes a trial, and says how it has ended."""
    step, objective = -1, 0.0
    try:
        for step, objective in enumerate(runs):
            if study.falls_behind(trial, step, objective):
                runs.close()
                study.prune(trial)
                return f"pruned at {objective:.3f}"
    except (ValueError, FloatingPointError) as error:
        reason = without_secrets(one_line(error), cfg)
        study.fail(trial, step + 1, reason)
        return f"failed: {reason}"
    study.complete(trial, objective)
    return f"valid ACC {objective:.3f}"


def _finished(
    folder: Path,
    studies: Mapping[str, Study],
    cfgs: Mapping[str, DictConfig],
    words: Words,
    config_dir: Path | None,
) -> Tuned:
    """Writes what the study has found."""
    running = sum(not trial.state.is_finished() for study in studies.values() for trial in study.trials)
    if running:
        raise UserError(
            f"another process is at {running} of the trials of {folder}, and writes the results when they end"
        )
    trials = frame(studies)
    write_whole(folder / TRIALS_FILE, trials.to_csv(index=False))
    best, valid_acc, names = {}, {}, []
    for name, study in studies.items():
        found = study.best
        if found is None:
            reasons = trials.loc[trials["strategy"] == name, "reason"].dropna().tolist()
            why = f": the first failed with: {reasons[0]}" if reasons else ""
            raise UserError(
                f"strategy={name}: no trial was complete{why} (all are in {folder / TRIALS_FILE})"
            )
        best[name], valid_acc[name] = dict(found.params), float(found.value or 0.0)
        names.append(best_name(name, list(studies)))
        comment = (
            f"{name}, tuned: ACC {valid_acc[name]:.4f} on validation samples, the best of "
            f"{len(study.trials)} trials, number {found.number}."
        )
        write_best(folder, names[-1], cfgs[name], best[name], comment)
        picture = "tune" if len(studies) == 1 else f"tune_{names[-1].removeprefix('best_')}"
        write_figure(folder / picture, study, trials[trials["strategy"] == name])
    command = next_command(folder, names, words, config_dir)
    return Tuned(folder, best, valid_acc, trials, command)
