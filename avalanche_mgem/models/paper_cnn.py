"""The convolutional network of the mGEM paper."""

from collections.abc import Sequence

from torch import Tensor, nn


class PaperCNN(nn.Module):
    """Four 3 x 3 convolutions of stride 2 with BatchNorm and ReLU, then a classifier.

    The convolutions have 128, 256, 512 and 1024 channels, padding 1 and no bias. Our source describes the
    last layer as a fifth 3 x 3 convolution to the classes, with bias, without padding and without BatchNorm.
    But on 32 x 32 images the feature map before it is 2 x 2, and a 3 x 3 convolution does not fit. So here it
    covers the whole map, which makes it a linear layer. That is this project's own choice.

    Args:
        num_classes: number of outputs.
        input_shape: channels, height and width of an image.
        channels: channels of the convolutions; the default is the paper's.

    Example:
        >>> import torch
        >>> PaperCNN(100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
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
