"""The plugin in any order of events, step by step beside oracles that are written here.

A machine of Hypothesis trains experiences of any size, in any order, whole or in pieces. In between it
freezes, evaluates, copies, reloads and changes options. ``make test`` runs a short form. The long one is

    MGEM_MACHINE=200 pytest tests/test_plugin_machine.py --hypothesis-seed=1
"""

import copy
import os
import pickle
import random
from collections import Counter

import avalanche.benchmarks as ab
import numpy as np
import pytest
import torch
from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.scenarios.supervised import with_classes_timeline
from avalanche.benchmarks.scenarios.task_aware import with_task_labels
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.models import IncrementalClassifier, as_multitask
from avalanche.training import Naive
from avalanche.training.plugins import SupervisedPlugin
from helpers import strategy_arguments
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from scipy.optimize import nnls
from torch import nn

from avalanche_mgem import MGEMPlugin
from avalanche_mgem.partition import Partition

CE = nn.CrossEntropyLoss()
CLASSES = 4
PARTITIONS = (1, "layer", "tensor", "random:2", ["*features*", "*classifier*"])


class Net(nn.Module):
    def __init__(self, dropout: float):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Dropout(dropout))
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.classifier(self.features(x))


def network(kind: str, dropout: float) -> nn.Module:
    model = Net(dropout)
    if kind == "growing":
        model.classifier = IncrementalClassifier(4, 1)
    return (as_multitask(model, "classifier") if kind == "heads" else model).double()


def flat(tensors, parameters) -> torch.Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if t is None else t.flatten()
            for t, p in zip(tensors, parameters, strict=True)
        ]
    )


def state_of_generators() -> tuple:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


class Minibatches(SupervisedPlugin):
    """Which samples the strategy sees, by the number in their first feature."""

    def __init__(self):
        super().__init__()
        self.seen: list[list[float]] = []

    def before_forward(self, strategy, **kwargs):
        self.seen.append(strategy.mb_x[:, 0].tolist())


class Before(SupervisedPlugin):
    """The gradient of the minibatch and, by a plain loop, those of the memory's groups."""

    def after_backward(self, strategy, **kwargs):
        plugin = MGEMPlugin.of(strategy)
        self.parameters = [p for p in strategy.model.parameters() if p.requires_grad]
        self.g = flat([p.grad for p in self.parameters], self.parameters)
        self.groups = list(plugin.projector.groups or ())
        self.blocks = plugin.projector.partition.blocks(
            strategy.model, [(n, p) for n, p in strategy.model.named_parameters() if p.requires_grad]
        ).split(torch.arange(len(self.g)))
        rows = [self._row(strategy.model, group) for group in self.groups]
        self.G = torch.stack(rows) if rows else torch.empty(0, len(self.g), dtype=torch.float64)

    def _row(self, model, group):
        drops = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
        for layer in drops:
            layer.eval()
        has_heads = hasattr(model, "forward_single_task")
        output = model(group.x, group.task_labels) if has_heads else model(group.x)
        loss = CE(output, group.y)
        for layer in drops:
            layer.train()
        if not loss.requires_grad:
            return torch.zeros_like(self.g)
        return flat(torch.autograd.grad(loss, self.parameters, allow_unused=True), self.parameters)


class After(SupervisedPlugin):
    """Checks what the plugin has made of the gradient."""

    def __init__(self, before: Before, machine: "PluginMachine"):
        super().__init__()
        self.of_step, self.machine = before, machine

    def after_backward(self, strategy, **kwargs):
        seen = self.of_step
        z = flat([p.grad for p in seen.parameters], seen.parameters)
        self.machine.check_groups(seen.groups)
        gamma = MGEMPlugin.of(strategy).projector.memory_strength
        assert torch.equal(torch.cat(seen.blocks).sort().values, torch.arange(len(z)))
        for block in seen.blocks:
            check_projection(seen.g[block], seen.G[:, block], z[block], gamma)


def check_projection(g, G, z, gamma) -> None:
    """One module's update against SciPy's: the point nearest to g + gamma G^T 1 with G z >= 0."""
    products = G @ g
    rounding = 1e-12 * G.norm(dim=1) * g.norm()
    if not (products < rounding).any():
        assert torch.equal(z, g)
        return
    if not (products < -rounding).any():  # on the border: either is right
        return
    event(f"violated, gamma {gamma}, rows {len(G)}")
    scale = g.norm() + gamma * G.norm(dim=1).sum()
    if gamma == 0:
        assert (G @ z >= -1e-6 * G.norm(dim=1) * scale).all()
    norms = G.norm(dim=1)
    kept = G[norms > 1e-9 * norms.max()]
    target = g + gamma * G.sum(dim=0)
    normals = kept / kept.norm(dim=1, keepdim=True)
    multipliers = torch.from_numpy(nnls(normals.T.numpy(), -target.numpy())[0])
    assert (z - target - multipliers @ normals).norm() <= 1e-4 * scale


class PluginMachine(RuleBasedStateMachine):
    """Events, and after each of them what must hold."""

    @initialize(
        seed=st.integers(0, 10**6),
        kind=st.sampled_from(["single", "growing", "heads"]),
        sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
        classes=st.integers(1, CLASSES),
        dropout=st.sampled_from([0.0, 0.3]),
        patterns=st.sampled_from([1, 3, 5, 20]),
        gamma=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
        modules=st.sampled_from(PARTITIONS),
        groups=st.integers(1, 3),
        grouping=st.sampled_from(["random", "random", "stratified", "label"]),
        transform=st.sampled_from(["eval", "train", "frozen"]),
        per_step=st.sampled_from([None, None, 1, 4]),
        experiences_per_step=st.sampled_from([None, None, 1, 2]),
        late=st.booleans(),
    )
    def begin(self, seed, kind, sizes, classes, dropout, late, patterns, gamma, groups, **options):
        torch.set_default_dtype(torch.float64)  # of heads and classes that Avalanche adds
        torch.manual_seed(seed)
        self.kind, self.late = kind, late
        self.owner: dict[float, int] = {}  # the number in a sample's first feature -> its experience
        self.label: dict[float, int] = {}
        self.remembered: dict[int, Counter[float]] = {}  # what the memory was offered of each experience
        self.capacity: dict[int, int] = {}
        datasets = []
        for number, n in enumerate(sizes):
            x = torch.randn(n, 3, dtype=torch.float64)
            x[:, 0] = (100 * number + torch.arange(n)) / 1000
            y = torch.randint(0, classes, (n,)) if kind == "heads" else torch.randint(0, CLASSES, (n,))
            for key, label in zip(x[:, 0].tolist(), y.tolist(), strict=True):
                self.owner[key], self.label[key] = number, label
            task = number if kind == "heads" else 0
            datasets.append(tensor_dataset(x, y, task_labels=[task] * n))
        benchmark = with_classes_timeline(
            with_task_labels(benchmark_from_datasets(train=datasets, test=datasets))
        )
        self.experiences = list(benchmark.train_stream)
        for experience in self.experiences:  # heads take no set, which with_classes_timeline gives
            experience.classes_in_this_experience = sorted(experience.classes_in_this_experience)
        model = network(kind, dropout)
        self.plugin = MGEMPlugin(
            patterns,
            gamma,
            num_modules=options["modules"],
            num_groups=min(groups, patterns),
            grouping=options["grouping"],
            memory_transform=options["transform"],
            patterns_per_step=options["per_step"],
            experiences_per_step=options["experiences_per_step"],
            seed=seed if seed % 2 else None,
        )
        self.minibatches, self.before = Minibatches(), Before()
        self.strategy = self.strategy_of(model, [] if late else [self.plugin])

    def strategy_of(self, model, plugins) -> Naive:
        if plugins:
            plugins = [self.before, *plugins, After(self.before, self)]
        self.minibatches.seen = []
        arguments = {**strategy_arguments(model, lr=0.05), "train_mb_size": 4}
        return Naive(plugins=[*plugins, self.minibatches], **arguments)

    @property
    def is_attached(self) -> bool:
        return MGEMPlugin.of(self.strategy) is not None

    def train(self, experience) -> None:
        """Trains ours and, from the same state, a stock strategy: the same minibatches and generators."""
        if self.is_attached and (reason := self.refusal()):
            event("refused")
            with pytest.raises(ValueError, match=reason):
                self.strategy.train(experience)
            self.plugin.memory.num_groups, self.plugin.memory.grouping = 1, "random"
        state = torch.get_rng_state()
        stock = Minibatches()
        other = Naive(
            plugins=[stock],
            **{**strategy_arguments(copy.deepcopy(self.strategy.model)), "train_mb_size": 4},
        )
        other.train_epochs = self.strategy.train_epochs
        other.train(experience)
        after = state_of_generators()
        torch.set_rng_state(state)
        frozen = {
            n: p.detach().clone() for n, p in self.strategy.model.named_parameters() if not p.requires_grad
        }
        self.minibatches.seen = []
        self.strategy.train(experience)
        assert self.minibatches.seen == stock.seen
        assert state_of_generators() == after
        for name, p in self.strategy.model.named_parameters():
            if name in frozen and not p.requires_grad:  # classes that Avalanche adds are not frozen
                assert torch.equal(p, frozen[name])

    def refusal(self) -> str | None:
        """Which error the memory's groups get, if any."""
        memory, number = self.plugin.memory, self.training
        today = min(memory.patterns_per_experience, len(self.experiences[number].dataset))
        if memory.num_groups > today:  # said before the experience is trained
            return f"holds only {today} samples; a group is never empty"
        classes = len(set(self.experiences[number].dataset.targets))
        is_last = number == len(self.experiences) - 1
        if memory.grouping == "label" and memory.num_groups > classes and not is_last:
            return f"has only {classes} classes"
        for slot in memory._slots:
            kept = slot.samples.read(0, memory._reading)[0][:, 0].tolist()
            if slot.experience == number or memory.num_groups == 1:
                continue
            if memory.num_groups > len(kept):
                return f"holds only {len(kept)} samples; a group is never empty"
            labels = {self.label[key] for key in kept}
            if memory.grouping == "label" and memory.num_groups > len(labels):
                return f"has only {len(labels)} classes"
        return None

    def check_groups(self, groups) -> None:
        """Groups of a step: of one past experience each, never empty, without a sample in two."""
        counted: dict[int, Counter[float]] = {}
        memory = self.plugin.memory
        assert (
            memory.patterns_per_step
            or memory.experiences_per_step
            or len(groups) == memory.num_groups * len(set(self.remembered) - {self.training})
        )
        for group in groups:
            assert len(group.y) > 0
            assert group.experience != self.training
            keys = group.x[:, 0].tolist()
            assert {self.owner[key] for key in keys} == {group.experience}
            assert [self.label[key] for key in keys] == group.y.tolist()
            counted.setdefault(group.experience, Counter()).update(keys)
        for number, found in counted.items():
            assert found <= self.remembered[number]
            if memory.patterns_per_step is None:
                assert found.total() == min(self.capacity[number], self.remembered[number].total())
            assert sum(group.experience == number for group in groups) == memory.num_groups

    def offered(self, number: int, keys, *, extends: bool) -> None:
        if not self.is_attached:
            return
        old = self.remembered.get(number, Counter()) if extends else Counter()
        self.remembered[number] = old + Counter(keys)
        self.capacity[number] = self.plugin.memory.patterns_per_experience

    @rule(index=st.integers(0, 4), epochs=st.sampled_from([1, 1, 2]))
    def train_whole(self, index, epochs):
        experience = self.experiences[index % len(self.experiences)]
        self.training = experience.current_experience
        self.strategy.train_epochs = epochs
        self.train(experience)
        self.offered(
            self.training, [key for key, n in self.owner.items() if n == self.training], extends=False
        )

    @rule(index=st.integers(0, 4), size=st.integers(1, 6), most=st.integers(1, 4), again=st.booleans())
    def train_in_pieces(self, index, size, most, again):
        experience = self.experiences[index % len(self.experiences)]
        self.training = experience.current_experience
        pieces = list(ab.split_online_stream([experience], size, access_task_boundaries=True, seed=0))[:most]
        for piece in pieces:  # which do not know what Avalanche's heads ask for
            piece.classes_in_this_experience = experience.classes_in_this_experience
            piece.task_labels = experience.task_labels
        for piece in pieces + pieces[-1:] * again:
            self.train(piece)
            keys = [piece.dataset[i][0][0].item() for i in range(len(piece.dataset))]
            self.offered(self.training, keys, extends=not piece.is_first_subexp)

    @rule()
    def attach(self):
        if self.is_attached:
            return
        event("attached late")
        self.strategy.plugins[:0] = [self.before, self.plugin, After(self.before, self)]

    @rule(pattern=st.sampled_from(["features.0", "features.1", "bias", "weight", "classifier"]))
    def freeze(self, pattern):
        named = list(self.strategy.model.named_parameters())
        if all(pattern in n for n, p in named if p.requires_grad):
            return
        for name, p in named:
            if pattern in name:
                p.requires_grad_(False)

    @rule()
    def unfreeze(self):
        self.strategy.model.requires_grad_(True)

    @rule(index=st.integers(0, 4))
    def evaluate(self, index):
        self.strategy.eval(self.experiences[index % len(self.experiences)])

    @rule(
        gamma=st.sampled_from([0.0, 0.05, 0.5]),
        modules=st.sampled_from(PARTITIONS),
        per_step=st.sampled_from([None, 1, 3, 6]),
        experiences=st.sampled_from([None, 1, 2]),
    )
    def change_options(self, gamma, modules, per_step, experiences):
        projector = self.plugin.projector
        projector.memory_strength = gamma
        projector.partition = Partition(modules, seed=0)
        projector.memory.patterns_per_step = per_step
        projector.memory.experiences_per_step = experiences

    @rule(groups=st.integers(1, 3), grouping=st.sampled_from(["random", "stratified", "label"]))
    def change_groups(self, groups, grouping):
        memory = self.plugin.memory
        memory.num_groups, memory.grouping = min(groups, memory.patterns_per_experience), grouping

    @rule(way=st.sampled_from(["deepcopy", "pickle"]), index=st.integers(0, 4), keeps_copy=st.booleans())
    def go_on_with_a_copy(self, way, index, keeps_copy):
        """A copy and the original, trained once more, end with the same weights bit for bit."""
        if not self.is_attached:
            return
        plugin = copy.deepcopy(self.plugin) if way == "deepcopy" else pickle.loads(pickle.dumps(self.plugin))
        model = copy.deepcopy(self.strategy.model)
        original = self.strategy, self.plugin
        state = torch.get_rng_state()
        remembered, capacity = copy.deepcopy((self.remembered, self.capacity))
        options = copy.copy((self.plugin.memory.num_groups, self.plugin.memory.grouping))
        self.train_whole(index, 1)
        torch.set_rng_state(state)
        after = [p.detach().clone() for p in self.strategy.model.parameters()]
        self.remembered, self.capacity, self.plugin = remembered, capacity, plugin
        assert (plugin.memory.num_groups, plugin.memory.grouping) == options
        self.strategy = self.strategy_of(model, [plugin])
        self.train_whole(index, 1)
        for a, b in zip(after, model.parameters(), strict=True):
            assert torch.equal(a, b)
        if not keeps_copy:
            self.strategy, self.plugin = original

    def teardown(self):
        torch.set_default_dtype(torch.float32)
        if not hasattr(self, "plugin"):
            return
        memory = self.plugin.memory
        assert len(memory) == len(self.remembered)
        for slot in memory._slots:
            keys = Counter(slot.samples.read(0, memory._reading)[0][:, 0].tolist())
            assert keys <= self.remembered[slot.experience]
            assert keys.total() == min(
                self.capacity[slot.experience], self.remembered[slot.experience].total()
            )


TestPluginMachine = PluginMachine.TestCase
TestPluginMachine.settings = settings(
    max_examples=int(os.environ.get("MGEM_MACHINE", "12")),
    stateful_step_count=12,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
