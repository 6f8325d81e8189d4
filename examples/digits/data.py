"""The data: 1,797 real handwritten digits, 8 by 8 pixels each, that come with scikit-learn."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BRIGHTEST_PIXEL = 16.0


class Split(NamedTuple):
    """Images as rows of 64 pixels between 0 and 1, and the digit that each one shows."""

    images: np.ndarray
    digits: np.ndarray


def load(seed: int, test_share: float = 0.25) -> tuple[Split, Split]:
    """The images to learn from, and those to be judged by; every digit has the same share in both."""
    images, digits = load_digits(return_X_y=True)
    train_images, test_images, train_digits, test_digits = train_test_split(
        images / BRIGHTEST_PIXEL, digits, test_size=test_share, stratify=digits, random_state=seed
    )
    return Split(train_images, train_digits), Split(test_images, test_digits)
