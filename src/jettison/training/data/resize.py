"""Resizing of images in memory, once, when a data set is loaded."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 4096  # images at a time: bounds the float32 copy


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (n, h, w, c) → uint8 (n, size, size, c), bilinear, low-pass filtered where it shrinks."""
    out = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for i in range(0, len(images), BLOCK):
        x = torch.from_numpy(np.ascontiguousarray(images[i : i + BLOCK])).permute(0, 3, 1, 2).float()
        y = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
        out[i : i + BLOCK] = y.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return out
