"""The data set that needs no download: scikit-learn's handwritten digits, 1,797 grey images of 8×8 pixels.

Every fifth image is a test image. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import MissingExtra
from .dataset import Raw, Split


def read_digits(folder: Path) -> Raw:
    """`folder` is not looked at: the images come with scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise MissingExtra("the digits data set comes with scikit-learn; install it with: pip install 'jettison[train]'") from e
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # type: ignore[union-attr]
    labels = digits.target.astype(np.int64)  # type: ignore[union-attr]
    test = np.arange(len(labels)) % 5 == 4
    return Raw(Split(images[~test], labels[~test]), Split(images[test], labels[test]), [str(i) for i in range(10)])
