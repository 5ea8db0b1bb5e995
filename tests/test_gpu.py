"""On a GPU the method computes what it computes on the CPU, and waits for the GPU a few times a step."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SlimResNet18
from avalanche.training.plugins import EvaluationPlugin
from helpers import (
    digits,
    fast_digits,
    gradients,
    labelled_digits,
    memory_groups,
    mlp,
    parameters_of,
    strategy_arguments,
)
from references.random_models import compare
from torch import Tensor, nn

from avalanche_mgem import DMGEM, MGEM, PMGEM, Projector, load_checkpoint, save_checkpoint
from avalanche_mgem.data import BatchedEvaluation, LabelledTensors, preload
from avalanche_mgem.experiment import run
from avalanche_mgem.functional import Blocks, gram, project
from avalanche_mgem.references import ReferenceComputer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

GPU = torch.device("cuda")


def strategy(kind: Callable = MGEM, device: str = "cuda", **options):
    model = mlp().double()
    return kind(patterns_per_exp=20, seed=0, device=device, **options, **strategy_arguments(model))


digit_stream = partial(labelled_digits, dtype=torch.float64)


def trained(made, benchmark) -> Tensor:
    torch.manual_seed(0)
    for experience in benchmark.train_stream:
        made.train(experience, pin_memory=False)
    return parameters_of(made.model).cpu()


@pytest.mark.parametrize("solver", ["exact", "diagonal", "quadprog"])
@pytest.mark.parametrize("modules", [None, torch.arange(40) // 10, torch.arange(40) % 4])
def test_the_projection_is_that_of_the_cpu(solver, modules):
    for seed in range(5):
        g, G = gradients(seed)
        options = {"memory_strength": 0.5 * (seed % 2), "solver": solver}
        expected = project(g, G, modules=modules, **options)
        found = project(g.to(GPU), G.to(GPU), modules=None if modules is None else modules.to(GPU), **options)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_are_near_the_cpus(dtype):
    g, G = (x.to(dtype) for x in gradients(0, P=400))
    expected = project(g, G).float()
    found = project(g.to(GPU), G.to(GPU)).float().cpu()
    assert (found - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm() + 1e-5


@pytest.mark.parametrize("diagonal", [False, True])
def test_products_of_long_rows_lose_no_digits(diagonal):
    generator = torch.Generator(GPU).manual_seed(0)
    G = torch.randn(4, 11_000_000, device=GPU, generator=generator)
    K, b = gram(G[0] - G[1], G, Blocks((G.shape[1],)), diagonal=diagonal)
    expected = G.double() @ G.double().T
    scale = expected.diagonal().mean()
    assert (b[0] - (expected[:, 0] - expected[:, 1])).abs().max() < 1e-6 * scale
    difference = K[0] - expected
    assert (difference.diagonal() if diagonal else difference).abs().max() < 1e-6 * scale


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_auto_gives_the_gradients_of_the_loop_on_models_of_every_kind(first):
    chosen = [way for seed in range(first, first + 20) for way in compare(seed, "cuda").chosen]
    assert "layerwise" in chosen  # or nothing has been compared


def test_auto_takes_the_layerwise_way_for_convolutions_as_torch_rounds_them():
    torch.manual_seed(0)
    model = SlimResNet18(10, nf=20).to(GPU)
    groups = memory_groups(torch.randn(60, 3, 32, 32), torch.randint(10, (60,)), (20, 20, 20)).to(GPU)
    references = ReferenceComputer("auto")
    references(groups, model, nn.CrossEntropyLoss(), list(model.parameters()))
    assert references.chosen == "layerwise", references.reason


@pytest.mark.parametrize(
    "kind", [MGEM, partial(PMGEM, num_modules="layer"), DMGEM, partial(MGEM, patterns_per_step=16)]
)
def test_training_ends_where_the_cpu_ends(kind):
    benchmark = digit_stream()
    expected = trained(strategy(kind, "cpu"), benchmark)
    torch.testing.assert_close(trained(strategy(kind), benchmark), expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        trained(strategy(kind), preload(benchmark, "cuda")), expected, rtol=1e-6, atol=1e-8
    )


def test_a_memory_in_host_memory_gives_the_same_updates():
    benchmark = digit_stream()
    for options in ({}, {"patterns_per_step": 16}):
        of_gpu, of_host = (
            trained(strategy(memory_device=device, **options), benchmark) for device in (None, "cpu")
        )
        torch.testing.assert_close(of_host, of_gpu, rtol=1e-9, atol=1e-11)


def test_a_loaded_strategy_goes_on(tmp_path):
    benchmark, path = digit_stream(), tmp_path / "checkpoint.pkl"
    expected = trained(strategy(), benchmark)
    begun = strategy()
    torch.manual_seed(0)
    for experience in benchmark.train_stream[:3]:
        begun.train(experience)
    save_checkpoint(begun, path, benchmark=benchmark)
    going_on = strategy()
    torch.manual_seed(1)
    torch.cuda.manual_seed(1)
    done = load_checkpoint(going_on, path, benchmark=benchmark)
    for experience in benchmark.train_stream[done:]:
        going_on.train(experience)
    torch.testing.assert_close(parameters_of(going_on.model).cpu(), expected, rtol=1e-9, atol=1e-11)


def test_batched_evaluation_has_the_accuracies_of_avalanche():
    benchmark = fast_digits()
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    model = mlp()
    made = MGEM(
        patterns_per_exp=20,
        device="cuda",
        plugins=[],
        **{**strategy_arguments(model), "evaluator": evaluator, "eval_mb_size": 64},
    )
    made.train(benchmark.train_stream[0])
    expected = made.eval(benchmark.test_stream, pin_memory=False)
    made.plugins.append(BatchedEvaluation())
    found = made.eval(preload(benchmark, "cuda").test_stream, pin_memory=False)
    assert found == pytest.approx(expected)


def test_dropout_leaves_the_generators_alone():
    model = nn.Sequential(nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 10)).to(GPU)
    mgem = Projector(model, nn.CrossEntropyLoss(), 20, num_groups=2)
    mgem.remember(LabelledTensors(*digits(100)))
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    mgem.compute_references()
    assert all(map(torch.equal, states, (torch.get_rng_state(), torch.cuda.get_rng_state())))


def waits(step: Callable[[], object]) -> list[str]:
    """Where a step waits for the GPU, as torch tells."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]


@pytest.mark.parametrize("options", [{}, {"num_modules": 2, "num_groups": 2}, {"solver": "diagonal"}])
def test_a_step_waits_for_the_gpu_a_few_times(options):
    model = mlp().to(GPU)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = (part.to(GPU) for part in digits(100))
    mgem = Projector(model, criterion, 20, **options)
    for k in range(3):
        mgem.remember(LabelledTensors(*digits(100)), key=str(k))

    def step() -> None:
        optimizer.zero_grad()
        (-criterion(model(x), y)).backward()  # against every memory
        mgem.project()
        optimizer.step()

    for _ in range(3):
        step()
    assert len(waits(step)) <= 2, waits(step)


def test_a_run_of_the_command(tmp_path):
    result = run(
        ["strategy=dmgem", "benchmark=permuted_digits", "device=cuda", "benchmark.n_experiences=3"],
        folder=tmp_path / "run",
    )
    assert result.summary["acc"] > 0.5
