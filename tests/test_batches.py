"""Whole trainings with batches of every form, beside the same training on plain tensors."""

import math
import pickle

import avalanche.benchmarks as ab
import pytest
import torch
from avalanche.benchmarks.utils import AvalancheDataset, make_avalanche_dataset
from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as tensor_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training import GEM, Naive
from avalanche.training.plugins import EvaluationPlugin
from helpers import (
    MLP,
    Tagger,
    digits,
    mlp,
    padded,
    parameters_of,
    sentences,
    split_digits,
    strategy_arguments,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from avalanche_mgem import DMGEM, MGEM, DMGEMPlugin, Projector
from avalanche_mgem.metrics import generalization_gap_metrics


def separate(samples):
    """Inputs and targets of a batch of Hugging Face."""
    batch = padded(samples)
    return batch, batch.pop("labels")


def by_keywords(model):
    return lambda x, task_labels: model(**x)


def of_logits(output, y):
    return nn.functional.cross_entropy(output.logits, y)


def tagger(seed=0):
    torch.manual_seed(seed)
    return Tagger()


# In a plain loop.


def trained_in_a_loop(model, tasks, forward, collate_fn, criterion, to_model, **options):
    mgem = Projector(
        model, criterion, 10, 0.1, num_groups=2, seed=0, forward=forward, collate_fn=collate_fn, **options
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for task in tasks:
        mgem.check(task)
        for x, y in DataLoader(task, batch_size=5, collate_fn=collate_fn):
            optimizer.zero_grad()
            criterion(to_model(x), y).backward()
            mgem.project()
            optimizer.step()
        mgem.remember(task)
    return mgem


def test_two_inputs_train_as_the_same_in_one_tensor():
    class Joined(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x if isinstance(x, torch.Tensor) else torch.cat([x["a"], x["b"]], dim=1))

    x, y = digits(120)
    halves = [slice(0, 60), slice(60, 120)]
    finals = []
    for is_dict in (False, True):
        torch.manual_seed(0)
        model = Joined(MLP())
        tasks = [
            [
                ({"a": one[:20], "b": one[20:]} if is_dict else one, label)
                for one, label in zip(x[h], y[h], strict=True)
            ]
            for h in halves
        ]
        mgem = trained_in_a_loop(model, tasks, None, None, nn.CrossEntropyLoss(), model)
        assert len(mgem.memory) == 2
        finals.append(parameters_of(model))
    assert torch.equal(*finals)


@pytest.mark.parametrize("references", ["auto", "loop", "layerwise"])
def test_a_model_of_hugging_face_in_a_plain_loop(references):
    model = tagger()
    tasks = [sentences(30, longest, seed=number) for number, longest in enumerate((5, 9, 7))]
    mgem = trained_in_a_loop(
        model, tasks, by_keywords(model), separate, of_logits, lambda x: model(**x), references=references
    )
    assert len(mgem.memory) == 3
    lengths = {group.x["input_ids"].shape[1] for group in mgem.memory.groups()}
    assert len(lengths) == 3
    assert torch.isfinite(parameters_of(model)).all()


def test_a_third_field_that_is_no_task_label_is_not_read_as_one():
    x, y = digits(20)
    for extra in (torch.rand(20), torch.rand(20, 3), ["name"] * 20):
        model = MLP()
        mgem = Projector(model, nn.CrossEntropyLoss(), 8)
        mgem.remember(list(zip(x, y, extra, strict=True)))
        assert mgem.compute_references()
        assert mgem.groups.task_labels is None


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([{"x": torch.zeros(4), "y": 1}] * 3, {}, "a batch of the dataset is a dict, which does not tell"),
        ([torch.zeros(4)] * 3, {}, "a batch of the dataset is a Tensor, which does not tell"),
        ([(torch.zeros(4),)] * 3, {}, "a batch has inputs and targets; that of the dataset has 1 parts"),
        (
            [(torch.zeros(n), 0) for n in (3, 4)],
            {},
            "the samples do not make a batch: stack expects each tensor to be equal size.*give a collate_fn",
        ),
        (
            [({"x": torch.zeros(4), "text": "a"}, 1)] * 3,
            {},
            r"in which inputs\['text'\]\[0\] is a str; it keeps tensors",
        ),
        (
            [(torch.zeros(4), 1)] * 3,
            {"num_groups": 4},
            "num_groups=4 but the memory of an experience holds only 3",
        ),
        (
            [(torch.zeros(4), (1, 2))] * 3,
            {"num_groups": 2, "grouping": "label"},
            "grouping='label' needs class labels, .* has targets in a list",
        ),
        (
            [(torch.zeros(5), 1)] * 3,
            {},
            "the loss of samples of the memory cannot be computed: mat1 and mat2",
        ),
        (
            [({"x": torch.zeros(4)}, 1)] * 3,
            {},
            "cannot be computed: TypeError: linear.*; the forward pass takes inputs and task labels",
        ),
        (
            [(torch.zeros(4), 1)] * 3,
            {"criterion": lambda output, y, weight: 0},
            "cannot be computed: TypeError: .*missing 1 required positional argument: 'weight'",
        ),
        (
            [(torch.zeros(4), 1)] * 3,
            {"criterion": nn.CrossEntropyLoss(reduction="none")},
            r"the criterion gives a loss of shape \[2\]; it must give one number",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_the_first_task_is_trained(samples, options, message):
    criterion = options.pop("criterion", None) or nn.CrossEntropyLoss()
    mgem = Projector(nn.Linear(4, 3), criterion, 8, **options)
    with pytest.raises(ValueError, match=message) as error:
        mgem.check(samples)
    assert "\n" not in str(error.value)


def test_a_check_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = pickle.dumps(model.state_dict())
    mgem = Projector(model, nn.CrossEntropyLoss(), 8)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    mgem.check([(torch.randn(4), 0) for _ in range(4)])
    torch.manual_seed(0)
    mgem.check(TensorDataset(torch.ones(4, 4), torch.zeros(4).long()))
    assert torch.equal(torch.rand(1), expected)
    assert pickle.dumps(model.state_dict()) == before
    assert model.training
    assert all(p.grad is None for p in model.parameters())


# In Avalanche.


class HGNaive(Naive):
    """As Avalanche's own example for Hugging Face: the batch is a mapping, and the model takes keywords."""

    def _obtain_common_dataloader_parameters(self, **kwargs):
        # Without task labels Avalanche 0.6 leaves out the collate function of the data set.
        return {**super()._obtain_common_dataloader_parameters(**kwargs), "collate_fn": padded}

    @property
    def mb_x(self):
        return self.mbatch["input_ids"]

    @property
    def mb_y(self):
        return self.mbatch["labels"]

    def _unpack_minibatch(self):
        for key in self.mbatch:
            self.mbatch[key] = self.mbatch[key].to(self.device)

    def forward(self):
        return self.model(input_ids=self.mb_x, attention_mask=self.mbatch["attention_mask"], labels=self.mb_y)

    def criterion(self):
        return self._criterion(self.mb_output.logits, self.mb_y)


class Sentences(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples
        self.targets = [sample["labels"] for sample in samples]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def stream_of_sentences(longest=(5, 9, 7), collate_fn=None):
    datasets = []
    for number, length in enumerate(longest):
        data = Sentences(sentences(24, length, seed=number))
        targets = DataAttribute(data.targets, "targets")
        datasets.append(AvalancheDataset([data], data_attributes=[targets], collate_fn=collate_fn))
    return ab.benchmark_from_datasets(train=datasets, test=datasets)


@pytest.mark.parametrize("references", ["auto", "loop"])
@pytest.mark.parametrize("transform", ["eval", "train"])
def test_a_strategy_for_hugging_face_is_constrained_by_its_own_loss(references, transform):
    model = tagger()
    plugin = DMGEMPlugin(8, 0.0, references=references, memory_transform=transform)
    strategy = HGNaive(plugins=[plugin], **strategy_arguments(model, train_epochs=2))
    cosines = []

    before = plugin.after_backward

    def after_backward(strategy, **kwargs):
        groups = plugin.projector.groups
        batch = strategy.mbatch
        before(strategy, **kwargs)
        assert strategy.mbatch is batch
        z = torch.cat([p.grad.flatten() for p in model.parameters()])
        for group in groups or ():
            logits = model(group.x["input_ids"], group.x["attention_mask"]).logits
            loss = nn.functional.cross_entropy(logits, group.x["labels"])
            own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
            cosines.append(float(nn.functional.cosine_similarity(own, z, dim=0)))

    plugin.after_backward = after_backward
    for experience in stream_of_sentences().train_stream:
        strategy.train(experience)
    del plugin.after_backward
    assert len(cosines) > 10
    assert min(cosines) > -1e-3
    assert len(plugin.memory) == 3
    if transform == "eval":
        assert len(pickle.loads(pickle.dumps(plugin)).memory) == 3


def test_a_criterion_of_the_strategy_is_that_of_the_references():
    class Doubled(Naive):
        def criterion(self):
            assert self.mb_x.shape[0] == self.mb_y.shape[0] == self.mb_output.shape[0]
            return 2 * super().criterion()

    rows = []
    for cls in (Naive, Doubled):
        torch.manual_seed(0)
        model = MLP()
        plugin = DMGEMPlugin(20, 0.0, seed=0)
        strategy = cls(plugins=[plugin], **strategy_arguments(model, lr=0.0))
        first, second = list(split_digits(5).train_stream)[:2]
        strategy.train(first)
        strategy.train(second)
        strategy.experience = second
        plugin._attach(strategy)
        plugin.projector.begin(device="cpu")
        plugin.projector.compute_references()
        rows.append(plugin.projector.rows.dense())
    torch.testing.assert_close(rows[1], 2 * rows[0])


def test_heads_of_a_strategy_with_its_own_criterion():
    class Own(Naive):
        def criterion(self):
            return super().criterion()

    finals = []
    for cls in (Naive, Own):
        model = mlp(multi_head=True)
        strategy = cls(plugins=[DMGEMPlugin(20, 0.1, seed=0)], **strategy_arguments(model))
        torch.manual_seed(0)
        for experience in list(split_digits(5, task_labels=True).train_stream)[:3]:
            strategy.train(experience)
        finals.append(parameters_of(model))
    torch.testing.assert_close(*finals)


def test_the_generalization_gap_uses_the_loss_of_the_strategy():
    benchmark = stream_of_sentences()
    evaluator = EvaluationPlugin(*generalization_gap_metrics(8, every=1, stream=benchmark.test_stream))
    strategy = HGNaive(plugins=[DMGEMPlugin(8, 0.1)], **strategy_arguments(tagger(), evaluator=evaluator))
    for experience in benchmark.train_stream:
        strategy.train(experience)
    last = strategy.evaluator.get_last_metrics()
    assert any("GapViolated" in name and math.isfinite(value) for name, value in last.items())


def test_dictionaries_in_a_strategy_without_its_own_methods_are_refused_before_training():
    strategy = DMGEM(patterns_per_exp=8, **strategy_arguments(tagger()))
    stream = stream_of_sentences(collate_fn=padded).train_stream
    with pytest.raises(ValueError, match="a batch is a UserDict, which Avalanche's strategies do not unpack"):
        strategy.train(stream[0])
    assert strategy.clock.train_iterations == 0


class AnySize(nn.Module):
    """A convolution, and the mean over the places."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.conv(x)).mean(dim=(2, 3)))


def images(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        tensor_dataset(torch.randn(24, 1, size, size, generator=generator), torch.arange(24) % 3)
        for size in sizes
    ]


@pytest.mark.parametrize(
    "options", [{"references": "loop"}, {"references": "layerwise"}, {}, {"patterns_per_step": 12}]
)
def test_experiences_of_several_resolutions(options):
    torch.manual_seed(0)
    model = AnySize()
    strategy = DMGEM(patterns_per_exp=12, **options, **strategy_arguments(model))
    for experience in ab.benchmark_from_datasets(train=images((8, 8, 12, 6))).train_stream:
        strategy.train(experience)
    assert torch.isfinite(parameters_of(model)).all()


def test_several_resolutions_as_avalanches_gem():
    finals = []
    for make in (
        lambda **kw: GEM(patterns_per_exp=100, memory_strength=0.1, **kw),
        lambda **kw: MGEM(
            patterns_per_exp=100, memory_strength=0.1, ridge="absolute", solver="quadprog", **kw
        ),
    ):
        torch.manual_seed(0)
        model = AnySize()
        strategy = make(**strategy_arguments(model))
        for experience in ab.benchmark_from_datasets(train=images((8, 12, 6))).train_stream:
            strategy.train(experience, shuffle=False)
        finals.append(parameters_of(model))
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)


def test_a_third_field_of_avalanches_data_without_task_labels_is_no_label():
    x, y = digits(30)
    dataset = make_avalanche_dataset(TensorDataset(x, y, torch.arange(30)))
    strategy = DMGEM(patterns_per_exp=8, **strategy_arguments(MLP()))
    strategy.train(ab.benchmark_from_datasets(train=[dataset]).train_stream[0])
    assert all(group.task_labels is None for group in strategy.plugins[0].memory.groups())


def test_a_list_of_strengths_that_is_too_short_is_refused_before_training():
    strategy = DMGEM(patterns_per_exp=8, memory_strength=[0.1, 0.2], **strategy_arguments(MLP()))
    with pytest.raises(
        ValueError, match="lists 2 values but the stream has 5 experiences; give one value for each"
    ):
        strategy.train(split_digits(5).train_stream[0])
    assert strategy.clock.train_iterations == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 150}, "num_groups=150 but the memory of experience 0 holds only"),
        ({"num_groups": 2, "grouping": "label"}, "grouping='label' needs class labels"),
    ],
)
def test_groups_that_cannot_be_made_are_refused_before_training(options, message):
    x, y = digits(100)
    data = make_avalanche_dataset(TensorDataset(x, torch.nn.functional.one_hot(y, 10).float()))
    strategy = DMGEM(patterns_per_exp=200, **options, **strategy_arguments(MLP()))
    with pytest.raises(ValueError, match=message):
        strategy.train(ab.benchmark_from_datasets(train=[data]).train_stream[0])
    assert strategy.clock.train_iterations == 0


def test_pieces_of_a_stream_that_differ_in_length_need_their_samples():
    benchmark = stream_of_sentences((9, 9))
    stream = lambda: ab.split_online_stream(  # noqa: E731
        benchmark.train_stream, 4, access_task_boundaries=True, seed=0
    )
    strategy = HGNaive(plugins=[DMGEMPlugin(8, 0.1)], **strategy_arguments(tagger()))
    with pytest.raises(ValueError, match=r"differ in shape.*memory_transform='train'"):
        strategy.train(list(stream()))
    strategy = HGNaive(
        plugins=[DMGEMPlugin(8, 0.1, memory_transform="train")], **strategy_arguments(tagger())
    )
    for piece in stream():
        strategy.train(piece)
    assert len(DMGEMPlugin.of(strategy).memory) == 2
