"""The generalisation gap of the constraints: what holds on the memory, but not on the past it stands for."""

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from torch import Tensor

from avalanche_mgem.functional import Blocks, GradientRows, gram
from avalanche_mgem.memory import EpisodicMemory, StepGroups, checked_integer, unpacked
from avalanche_mgem.metrics.constraints import last_step, watch
from avalanche_mgem.metrics.names import packaged
from avalanche_mgem.parameters import current_gradient, trainable_parameters
from avalanche_mgem.plugins import MGEMPlugin, StrategyLoss, origin_experience
from avalanche_mgem.projector import ConstrainedStep
from avalanche_mgem.references import ReferenceComputer, unwrapped
from avalanche_mgem.runs import GAP_METRICS

_TOLERANCE = 1e-4  # a cosine of this much below zero is none: in float32 200 constraints hold to 5e-5


def generalization_gap_metrics(
    patterns_per_exp: int = 256,
    *,
    every: int = 10,
    stream: Sequence[Any] | None = None,
    seed: int | None = None,
) -> list[PluginMetric]:
    """How often, and how far, a step goes against a past experience although its memory says it does not.

    Measured on samples of the validation stream ``"valid"``, where the benchmark has one, and else on samples
    of the test stream: they are in no memory and never trained on, whatever the strategy. Emitted after each
    training experience as ``GapViolated_Exp`` and ``GapDepth_Exp``; and as ``GapViolatedActing_Exp`` and
    ``GapDepthActing_Exp`` over those steps alone that a constraint changes. Training is the same without it,
    bit for bit.

    Args:
        patterns_per_exp: at most so many samples of each past experience. Default 256, GEM's memory.
        every: measured at every so many steps of an experience, from the first. Default 10, which with 256
            samples adds about a tenth of what GEM's reference gradients cost.
        stream: experiences with such samples, one for each of the training stream. None (default) is the
            benchmark's stream ``"valid"`` if that has an experience for each of training, and else its test
            stream. The experiences of Avalanche's ``benchmark_from_datasets`` do not know their benchmark:
            give a stream there. It becomes part of a checkpoint.
        seed: of the samples; None (default) takes the seed of torch's global generator without advancing it.

    Returns:
        the metrics, for Avalanche's ``EvaluationPlugin``.

    Raises:
        ValueError: for values that are not allowed; in training, if there is no such stream.
    """
    return [GeneralizationGap(patterns_per_exp, every=every, stream=stream, seed=seed)]


class GeneralizationGap(PluginMetric):  # type: ignore[misc]
    """The values of :func:`generalization_gap_metrics`, which explains the arguments."""

    def __init__(self, patterns_per_exp: int, *, every: int, stream: Sequence[Any] | None, seed: int | None):
        super().__init__()
        self._held_out = EpisodicMemory(patterns_per_exp, seed=seed)
        self._numbers: set[int] = set()  # of the experiences in there
        self._every = checked_integer("every", every, at_least=1)
        self._references = ReferenceComputer(batchnorm="running")
        self._past: StepGroups | None = None
        self._stream = stream
        self._found: Any = None  # the stream of held-out samples, where none is given
        self.reset()

    def __getstate__(self) -> dict[str, Any]:
        """A checkpoint holds the samples, but nothing that a step leaves behind."""
        return self.__dict__ | {"_past": None, "_found": None}

    def reset(self) -> None:
        """Forgets what was measured."""
        # Pairs, violated pairs and the depth of these, [2, 3]: in all steps, and where a constraint acts.
        self._sums: Tensor | None = None

    def result(self) -> dict[str, float]:
        """The values, without those for which there is no pair."""
        found: dict[str, float] = {}
        every = [] if self._sums is None else self._sums.tolist()
        for (pairs, *sums), keys in zip(every, (GAP_METRICS[:2], GAP_METRICS[2:]), strict=False):
            found |= {key: total / pairs for key, total in zip(keys, sums, strict=True)} if pairs else {}
        return found

    def before_training_exp(self, strategy: Any) -> None:
        """Collects the samples of the past experiences."""
        self.reset()
        self._references.reset()
        watch(strategy)
        if strategy.clock.train_exp_counter == 0:  # another strategy: its past is empty
            self._held_out = EpisodicMemory(self._held_out.patterns_per_experience, seed=self._held_out.seed)
            self._numbers, self._found = set(), None
        held_out = self._held_out_experience(strategy.experience)
        self._past = self._held_out.groups(but=_key(held_out), device=strategy.device)

    def before_update(self, strategy: Any) -> None:
        """Compares the update, at the weights before it, with the gradients on the samples."""
        past = self._past
        if not past or strategy.clock.train_exp_iterations % self._every != 0:
            return
        model = unwrapped(strategy.model)
        parameters = [p for _, p in trainable_parameters(model)]
        loss = StrategyLoss.of(strategy)
        G = self._references(past, model, loss.criterion, parameters, loss.forward)
        with torch.no_grad(), torch.autocast(strategy.device.type, enabled=False):
            cosines = _cosines(current_gradient(parameters), G)
            counts = torch.ones_like(cosines, dtype=torch.bool)
            acts = False
            if MGEMPlugin.of(strategy) is not None:
                step = last_step(strategy)
                acts = step is not None and step.report.is_violated
                counts &= _memory_holds(step, past).to(counts.device)
            violated = counts & (cosines < -_TOLERANCE)
            depths = torch.where(violated, -cosines, 0.0)
            of_step = torch.stack([counts.sum(), violated.sum(), depths.sum()])
            added = torch.stack([of_step, of_step * acts])
            self._sums = added if self._sums is None else self._sums + added

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:
        """Emits, and takes samples of the experience."""
        held_out = self._held_out_experience(strategy.experience)
        if held_out.current_experience not in self._numbers:  # not again for each piece of an online stream
            self._numbers.add(held_out.current_experience)
            number = held_out.current_experience
            loss = StrategyLoss.of(strategy)
            self._held_out.collate_fn, self._held_out.unpack = loss.collate_fn, loss.unpack
            self._held_out.remember(held_out.dataset.eval(), experience=number, key=_key(held_out))
            self._held_out.collate_fn, self._held_out.unpack = (
                None,
                unpacked,
            )  # a checkpoint holds no strategy
        self._past = None
        self._references.reset()
        return packaged(self, self.result(), "experience", strategy)

    def __str__(self) -> str:
        return "GeneralizationGap_Exp"

    def _held_out_experience(self, experience: Any) -> Any:
        """The one of held-out samples that belongs to one of training."""
        origin = origin_experience(experience)
        stream = self._stream_of(origin) if self._stream is None else self._stream
        number = origin.current_experience
        if number >= len(stream):
            raise ValueError(
                f"stream has {len(stream)} experiences; the generalization gap needs that of number {number}."
            )
        found = stream[number]
        if found.current_experience != number:
            raise ValueError(
                f"stream[{number}] is experience {found.current_experience}; the generalization gap "
                "needs one stream, in the order of training."
            )
        return found

    def _stream_of(self, origin: Any) -> Any:
        benchmark = getattr(origin.origin_stream, "benchmark", None)
        streams = {} if benchmark is None else benchmark.streams
        tests, trained = streams.get("test", ()), streams.get(origin.origin_stream.name, ())
        if len(valid := streams.get("valid", ())) == len(trained) > 0:
            tests = valid
        if len(tests) == 0 or len(tests) != len(trained):
            found = f"{len(tests)} for {len(trained)}" if len(tests) else "none"
            raise ValueError(
                "the generalization gap needs a test stream with an experience for each one of training, and "
                f"found {found}; pass one as stream to generalization_gap_metrics."
            )
        if self._found is not None and self._found is not tests:
            raise ValueError(
                "the generalization gap knows a past experience by its number; train on one benchmark only."
            )
        self._found = tests
        return tests


def _key(experience: Any) -> str:
    """Here an experience is known by its number: all are of one stream."""
    return str(experience.current_experience)


def _cosines(z: Tensor, G: GradientRows) -> Tensor:
    """Cosines of z ``[P]`` with the rows of G, ``[S]``; zero where one of the two is."""
    blocks = Blocks((len(z),))
    K, b = gram(z, G, blocks, diagonal=True)
    norms = K[0].diagonal().sqrt() * torch.linalg.vector_norm(z, dtype=b.dtype)
    return torch.where(norms > 0, b[0] / norms, 0.0)


def _memory_holds(step: ConstrainedStep | None, past: Sequence[Any]) -> Tensor:
    """Whether z is not against the mean gradient of each past experience's memory; False without one."""
    experiences = [samples.experience for samples in past]
    if step is None:
        return torch.zeros(len(experiences), dtype=torch.bool)
    rows = list(zip((owner for owner, _ in step.origins), step.sizes, strict=True))
    shares = [[size if owner == number else 0 for owner, size in rows] for number in experiences]
    done = step.report
    weights = torch.tensor(shares, dtype=done.norm.dtype).to(done.norm.device)
    products = weights @ done.products_z
    largest = weights @ done.norms_references * done.norm_z  # that the products can be
    return (products >= -_TOLERANCE * largest) & (weights.sum(dim=1) > 0)
