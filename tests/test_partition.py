from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from avalanche.models import IncrementalClassifier
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from avalanche_mgem.parameters import trainable_parameters
from avalanche_mgem.partition import Partition


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Linear(5, 3))


def modules_by_name(spec, model) -> dict[str, int]:
    """The module of each parameter; fails if a parameter is not in one module as a whole."""
    blocks = Partition(spec).blocks(model)
    parameters = trainable_parameters(model)
    ids = torch.cat([torch.full((p.numel(),), float(i)) for i, (_, p) in enumerate(parameters)])
    found: dict[str, int] = {}
    assert sum(blocks.sizes) == len(ids) > 0
    for j, part in enumerate(blocks.split(ids)):
        for i in part.unique().long().tolist():
            assert parameters[i][0] not in found
            found[parameters[i][0]] = j
    assert len(found) == len(parameters)
    return {name: found[name] for name, _ in parameters}


def test_one_module_by_default():
    assert Partition().blocks(network()).sizes == (30 + 12 + 35 + 18,)


def test_layer_keeps_weight_and_bias_together():
    found = modules_by_name("layer", network())
    assert found == {f"{layer}.{p}": layer for layer in range(4) for p in ("weight", "bias")}


def test_layers_of_layers_are_modules_by_their_whole_name():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    found = modules_by_name("layer", model)
    assert list(found.values()) == [0, 0, 1, 1, 2, 2]
    assert list(found) == [f"{layer}.{p}" for layer in ("0.0", "0.1", "1") for p in ("weight", "bias")]


def test_tensor_is_one_module_each():
    assert sorted(modules_by_name("tensor", network()).values()) == list(range(8))


def test_even_runs_are_contiguous_whole_layers():
    assert set(modules_by_name(2, network()).values()) == {0, 1}
    assert Partition(2).blocks(network()).sizes == (42, 53)
    assert Partition(4).blocks(network()).sizes == (30, 12, 35, 18)


def layers_of(sizes) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes))


def test_even_means_the_least_sum_of_squares():
    # Sums of cubes, or the largest module, would have the modules 1, 7, 6.
    assert Partition(3).blocks(layers_of([1, 7, 2, 4])).sizes == (8, 2, 4)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), data=st.data())
def test_even_runs_are_the_best_of_all_cuts(sizes, data):
    n = len(sizes)
    m = data.draw(st.integers(1, n))
    model = layers_of(sizes)
    modules = list(modules_by_name(m, model).values())  # one a layer
    assert modules == sorted(modules)
    assert set(modules) == set(range(m))
    found = Partition(m).blocks(model).sizes
    all_cuts = [(0, *cuts, n) for cuts in combinations(range(1, n), m - 1)]
    best = min(sum(sum(sizes[i:j]) ** 2 for i, j in pairwise(c)) for c in all_cuts)
    assert sum(size**2 for size in found) == best


def test_random_ignores_structure_and_is_even():
    model = network()
    partition = Partition("random:4", seed=3)
    blocks = partition.blocks(model)
    assert len(blocks.sizes) == 4
    assert all(abs(size - 95 / 4) < 5 * (95 * 3 / 16) ** 0.5 for size in blocks.sizes)  # binomial
    x = torch.arange(95.0)
    parts = blocks.split(x)
    assert torch.equal(torch.cat(parts).sort().values, x)
    assert not torch.equal(torch.cat(parts), x)
    assert torch.equal(Partition("random:4", seed=3).blocks(model).order, blocks.order)
    assert not torch.equal(Partition("random:4", seed=4).blocks(model).order, blocks.order)


def test_random_gives_equal_tensors_different_modules():
    model = nn.Sequential(nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False))
    for seed in (3, -1, 2**64 + 3):
        order = Partition("random:2", seed=seed).blocks(model).order
        first = order[order < 900]  # the first tensor's coordinates, module by module
        assert not torch.equal(first + 900, order[order >= 900])


def test_random_may_have_as_many_modules_as_there_are_parameters():
    model = nn.Linear(3, 1)
    blocks = Partition("random:4", seed=0).blocks(model)
    assert sum(blocks.sizes) == 4


def test_random_without_a_seed_keeps_its_draw():
    torch.manual_seed(1)
    model, partition = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), Partition("random:2")
    before = partition.blocks(model).order
    torch.manual_seed(2)
    model[1].requires_grad_(False)
    after = partition.blocks(model).order
    assert torch.equal(after, before[before < 420])


def test_random_follows_the_global_seed_without_advancing_it():
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, state = nn.Linear(20, 20), torch.get_rng_state()
        orders.append(Partition("random:2").blocks(model).order)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_random_keeps_the_modules_of_old_coordinates_when_the_model_grows():
    def ids(blocks, P):
        parts = blocks.split(torch.arange(P))
        found = torch.empty(P, dtype=torch.long)
        for j, part in enumerate(parts):
            found[part] = j
        return found

    model = nn.Sequential(nn.Linear(4, 6), IncrementalClassifier(6, 2))
    partition = Partition("random:3", seed=0)
    before = ids(partition.blocks(model), 44)
    model[1].classifier = nn.Linear(6, 5)
    after = ids(partition.blocks(model), 65)
    assert torch.equal(after[:42], before[:42])  # the first layer, and the classifier's first two rows


def test_freezing_layers_moves_no_border():
    model = network()
    assert modules_by_name(2, model)["3.weight"] == 1
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    assert set(modules_by_name(2, model).values()) == {0}


def test_modules_follow_what_is_frozen_though_the_shapes_are_the_same():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    partition = Partition([["0.*", "1.*"], "2.*"])
    model[0].requires_grad_(False)
    assert partition.blocks(model).sizes == (20, 20)
    model.requires_grad_(True)
    model[2].requires_grad_(False)
    assert partition.blocks(model).sizes == (40,)


def test_parameters_that_are_known_already_need_not_be_read_again():
    model = network()
    known = trainable_parameters(model)[:2]
    assert Partition().blocks(model, known).sizes == (30,)
    assert Partition("tensor").blocks(model, known).sizes == (24, 6)


@pytest.mark.parametrize("m", [2, np.int64(2), np.int32(2)])
def test_any_integer_is_a_number_of_modules(m):
    assert Partition(m).blocks(network()).sizes == (42, 53)


def test_globs_and_functions():
    model = network()
    by_globs = modules_by_name(["3.*", ["0.*", "1.*", "2.*"]], model)
    assert by_globs["3.weight"] == by_globs["3.bias"] == 0
    assert by_globs["0.weight"] == 1
    names = [name for name, _ in model.named_parameters()]
    by_function = modules_by_name(lambda m: [names[::2], names[1::2]], model)
    assert by_function == {name: i % 2 for i, name in enumerate(names)}


def test_split_and_join_are_inverse():
    blocks = Partition(["3.*", ["0.*", "1.*", "2.*"]]).blocks(network())
    x = torch.randn(95)
    assert torch.equal(blocks.join(list(blocks.split(x))), x)


def test_frozen_parameters_are_in_no_module():
    model = network()
    model[0].requires_grad_(False)
    assert "0.weight" not in modules_by_name("layer", model)
    assert set(modules_by_name(["0.*", ["1.*", "2.*", "3.*"]], model).values()) == {0}


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert sum(Partition("layer").blocks(model).sizes) == 16 + 4 + 4
    with pytest.raises(ValueError, match=r"'0\.weight' is in no module"):
        Partition([["1.weight", "0.bias", "1.bias"]]).blocks(model)


def test_modules_follow_a_growing_model():
    model = nn.Sequential(nn.Linear(4, 6), IncrementalClassifier(6, 2))
    partition = Partition("layer")
    assert partition.blocks(model).sizes == (30, 14)
    assert partition.blocks(model) is partition.blocks(model)
    model[1].classifier = nn.Linear(6, 5)
    assert partition.blocks(model).sizes == (30, 35)
    model.append(nn.Linear(5, 1))
    assert partition.blocks(model).sizes == (30, 35, 6)


@pytest.mark.parametrize(
    "spec", [0, -1, True, 1.5, "layers", "random:", "random:0", "random:x", [], None, "", [1, 2], [[0]]]
)
def test_what_is_not_a_partition_is_refused_with_what_is(spec):
    with pytest.raises(
        ValueError, match=r"is not a partition; allowed are an integer of at least 1, 'layer'"
    ):
        Partition(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [(5, "num_modules=5 but the model has 4 layers"), (["*", "head.*"], "matches no parameter")],
    ids=str,
)
def test_a_check_finds_what_no_freezing_repairs(spec, message):
    with pytest.raises(ValueError, match=message):
        Partition(spec).check(network())


@pytest.mark.parametrize("spec", [1, 4, "layer", "tensor", "random:3", ["3.*"], lambda model: []])
def test_a_check_leaves_the_rest_to_the_step(spec):
    """The other layers may be frozen when the first constraint comes, or a function give others then."""
    Partition(spec).check(network())


@pytest.mark.parametrize("spec", [1, 9, ["nothing"]], ids=str)
def test_a_check_leaves_lazy_parameters_alone(spec):
    """They have no shape yet."""
    Partition(spec).check(nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (5, "num_modules=5 but the model has 4 layers"),
        ("random:96", "num_modules='random:96' but the model has 95 parameters"),
        (["0.*", "1.*", "2.*"], "trainable parameter '3.weight' is in no module"),
        (["*", "3.*"], r"trainable parameter '3.weight' is in modules \[0, 1\]"),
        (["*", "head.*"], r"glob 'head.\*' matches no parameter"),
        (lambda model: [["0.weight"]], "trainable parameter '0.bias' is in no module"),
    ],
)
def test_errors_name_the_parameter(spec, message):
    with pytest.raises(ValueError, match=message):
        Partition(spec).blocks(network())


def test_a_model_without_trainable_parameters_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        Partition().blocks(network().requires_grad_(False))
