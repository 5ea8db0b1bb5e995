"""The convolutional network of the mGEM paper."""

from collections.abc import Sequence

from torch import Tensor, nn


class PaperCNN(nn.Module):
    """Four 3 x 3 convolutions of stride 2 with BatchNorm and ReLU, then a classifier.

    The channels are 128-256-512-1024; no bias, padding 1. Our source describes the last layer as a fifth
    3 x 3 convolution to the classes, with bias and without padding or BatchNorm. On 32 x 32 images the map is
    2 x 2 by then and 3 x 3 does not fit, so ours covers the whole map, which is a linear layer on it: the one
    reading that runs, and this project's own choice.

    Args:
        num_classes: outputs.
        input_shape: channels, height and width of an image.
        channels: of the convolutions; the default is the paper's.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int] = (3, 32, 32),
        channels: Sequence[int] = (128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        previous, height, width = input_shape
        layers: list[nn.Module] = []
        for out in channels:
            layers += [
                nn.Conv2d(previous, out, kernel_size=3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            previous, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(previous * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, num_classes] of images [batch, channels, height, width]."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
