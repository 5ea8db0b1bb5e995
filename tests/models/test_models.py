import pytest
import torch
from avalanche.models import MTSimpleMLP, SimpleMLP, SlimResNet18
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from torch import nn
from torchvision.models import VisionTransformer

from avalanche_mgem.benchmarks import SplitDigits
from avalanche_mgem.models import PaperCNN, multi_head


def test_paper_cnn_is_as_described() -> None:
    model = PaperCNN(num_classes=100)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [128, 256, 512, 1024]
    for layer in convolutions:
        assert (layer.kernel_size, layer.stride, layer.padding, layer.bias) == ((3, 3), (2, 2), (1, 1), None)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == 4
    assert model.classifier.weight.shape == (100, 1024 * 2 * 2)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 9)])
def test_paper_cnn_fits_any_image(shape: tuple[int, int, int]) -> None:
    model = PaperCNN(num_classes=7, input_shape=shape, channels=(4, 8, 8, 16))
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def tasks() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 2])


@pytest.mark.parametrize(
    "model",
    [
        SimpleMLP(num_classes=2, input_size=64, drop_rate=0),
        PaperCNN(num_classes=2, input_shape=(1, 8, 8), channels=(4, 4)),
    ],
    ids=["mlp", "cnn"],
)
def test_each_task_has_a_head_of_its_own(model: nn.Module) -> None:
    model = multi_head(model).eval()
    benchmark = SplitDigits(5, seed=0, return_task_id=True, class_ids_from_zero_in_each_exp=True)
    for experience in benchmark.train_stream:
        avalanche_model_adaptation(model, experience)
    x, task = tasks()
    before = model(x, task)
    assert before.shape == (4, 2)
    assert before.dtype == torch.float32
    # No output is masked, though no head was trained: all differ.
    assert before.unique().numel() == 8
    with torch.no_grad():
        model.classifier.classifiers["1"].classifier.bias += 1.0
    after = model(x, task)
    changed = (after != before).all(1)
    assert changed.tolist() == [False, True, False, False]


def test_resnet_gets_heads_too() -> None:
    model = multi_head(SlimResNet18(5)).eval()
    assert model(torch.zeros(1, 3, 32, 32), torch.tensor([0])).shape == (1, 5)


def test_a_vision_transformer_gets_heads() -> None:
    model = VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5
    )
    model = multi_head(model).eval()
    assert model(torch.zeros(3, 3, 8, 8), torch.tensor([0, 0, 0])).shape == (3, 5)
    assert model.heads.classifiers["0"].classifier.in_features == 8


def test_a_multi_task_model_is_left_as_it_is() -> None:
    model = MTSimpleMLP(input_size=64)
    assert multi_head(model) is model


def test_a_model_without_a_last_linear_layer_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"Sequential.*last layer, '1', is no nn\.Linear"):
        multi_head(model)
