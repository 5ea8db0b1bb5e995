from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from avalanche_mgem.data import DecodedImages, RGBImages


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("L", "a.png"), ("RGBA", "a.png"), ("P", "a.png"), ("1", "a.png"), ("RGB", "a.jpg")],
)
def test_every_image_becomes_rgb_of_one_size(tmp_path: Path, mode: str, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(noise(9, 14, 3)).convert(mode).save(path)
    image, target = RGBImages([str(path)], [4], image_size=8)[0]
    assert (image.mode, image.size, target) == ("RGB", (8, 8), 4)
    with Image.open(path) as expected:  # Pillow's own resizing of the whole image
        assert image == expected.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_jpeg_is_decoded_at_a_lower_resolution(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(25, 30, 3)).convert(mode).resize((480, 400), Image.Resampling.BICUBIC).save(path)
    image, _ = RGBImages([str(path)], [0], image_size=50)[0]
    with Image.open(path) as expected:
        exact = expected.convert("RGB").resize((50, 50), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(exact).astype(int))
    assert 0 < difference.max() <= 4


@pytest.mark.parametrize("shape", [(28, 28), (10, 20, 3)])
def test_an_array_is_read_as_the_same_image_in_a_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = RGBImages([pixels, str(tmp_path / "a.png")], [0, 1], image_size=32)
    assert images[0][0] == images[1][0]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_more_than_eight_bits_are_refused(tmp_path: Path, dtype: str) -> None:
    Image.fromarray(noise(40, 40, 3)[..., 0].astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match=r"a\.tif cannot be read as an image: its mode '\S+' has more than 8"
    ):
        RGBImages([str(tmp_path / "a.tif")], [0], 8)[0]


DAMAGES = {
    "text": lambda path: path.write_bytes(b"no image"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:2000]),
    # Pillow raises a SyntaxError for a broken PNG.
    "header": lambda path: path.write_bytes(path.read_bytes().replace(b"IHDR", b"IHDS")),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(40, 40, 3)).save(path)
    RGBImages([str(path)], [0], image_size=8)[0]  # whole, it can be read
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: .") as error:
        RGBImages([str(path)], [0], image_size=8)[0]
    assert "\n" not in str(error.value)


def test_the_size_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        RGBImages([], [], image_size=0)


class Counting(RGBImages):
    """Notes what is decoded."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.decoded = [*getattr(self, "decoded", []), index]
        return super().__getitem__(index)


def test_decoded_images_are_the_images_each_decoded_once_and_only_when_asked_for() -> None:
    dataset = Counting(list(noise(6, 9, 7, 3)), range(6), image_size=5)
    decoded = DecodedImages(dataset, torch.device("cpu"))
    expected = torch.stack([pil_to_tensor(dataset[i][0]) for i in range(6)])
    dataset.decoded = []
    for rows in ([4, 1, 4], [1], [0, 4]):
        found = decoded.index_select(0, torch.tensor(rows))
        assert torch.equal(found, expected[rows])
        found.zero_()  # a minibatch may be overwritten
    assert sorted(dataset.decoded) == [0, 1, 4]
