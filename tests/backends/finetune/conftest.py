"""Small real data sets: handwritten digits as arrays, coloured images, short texts."""

import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """1,400 handwritten digits of 8x8 pixels, 300 of them to test with."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, x=x[:1100], y=y[:1100], x_test=x[1100:1400], y_test=y[1100:1400])
    return path


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Images of three colours with much noise, named by folder; some to test with."""
    path, random = tmp_path_factory.mktemp("colours") / "images", np.random.RandomState(0)
    for channel, name in enumerate(("blue", "green", "red")):
        for number in range(40):
            pixels = random.randint(0, 200, (20, 24, 3))
            pixels[..., channel] += 30
            folder = path / ("test" if number < 8 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return path


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Words with many or few of the letter e."""
    path, random = tmp_path_factory.mktemp("texts") / "texts.csv", np.random.RandomState(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for number in range(200):
            letters = random.choice(list("abcd") + ["e"] * (6 if number % 2 else 1), 20)
            writer.writerow(
                ["".join(letters) + ", said he", "many" if number % 2 else "few", ("", "test")[number > 160]]
            )
    return path
