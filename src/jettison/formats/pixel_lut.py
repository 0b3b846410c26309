"""PixelLut: table look-up whose codes are those of input pixels, made once and looked up by every tap that sees the pixel.

    q ∈ u8 (h, w, c)   the padded input; padding holds the zero point
    G = ⌈c / v⌉        groups of v channels, any that the questions name
    code[p, g]         the leaf, 0 … K − 1, that pixel p reaches in the hash tree of group g
    acc[y, o]          Σ_tap Σ_g tables[o, tap·G + g, code[pixel of y at tap, g]]

Where `Lut` asks r·s·G trees for every output, this asks G trees for every input: a 3×3 layer of stride 1 nine times fewer. So trees may be
deeper and their questions better. Level l of a tree asks about two channels i = questions[g, l, 0] and j = questions[g, l, 1]:

    j ≥ 0:  a = ⌊(q[i] + q[j] + 1) / 2⌋           their mean; with j = i the channel itself
    j < 0:  a = ⌊(q[i] + 255 − q[−1 − j] + 1) / 2⌋  half their difference, around 128
    bit_l = a > thresholds[g, 2^l − 1 + Σ_{i<l} bit_i·2^i],    code = Σ_l bit_l·2^l

which is one instruction on bytes and a comparison. `questions` int32 (G, L, 2), `thresholds` u8 (G, K − 1), `tables` int8 (k, r·s·G, K).

Sources: product quantisation of a pixel's channels, shared by all taps: Wu et al. 2016, "Quantized Convolutional Neural Networks for
Mobile Devices" (arXiv 1512.06473), with nearest prototypes; hash trees: Blalock & Guttag 2021 (MADDNESS, arXiv 2106.10860). Questions of
two channels are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import FormatError
from .lut import LookUp

DEFAULT_PROTOTYPES = 256


@dataclass(frozen=True, slots=True)
class PixelLut(LookUp):
    """v channels per group, 1 ≤ v ≤ 65536; prototypes a power of two up to 65536. Errors: PatternError."""

    v: int
    prototypes: int = DEFAULT_PROTOTYPES
    kind: ClassVar[str] = "pixel_lut"
    word: ClassVar[str] = "pixel"
    usual: ClassVar[int] = DEFAULT_PROTOTYPES
    counted: ClassVar[str] = "channels per group"

    def groups(self, shape: tuple[int, ...]) -> int:
        """⌈c / v⌉; the last group may have fewer channels."""
        return -(-shape[3] // self.v)

    def codebooks(self, shape: tuple[int, ...]) -> int:
        """Look-ups of one output: r·s·⌈c / v⌉."""
        return shape[1] * shape[2] * self.groups(shape)

    def padded(self, shape: tuple[int, ...]) -> int:
        return -shape[3] % self.v

    def verify(self, parts: Mapping[str, np.ndarray], shape: tuple[int, ...], where: str) -> np.dtype:
        self.check(shape, where)
        groups, channels = self.groups(shape), shape[3]
        want = {
            "questions": (np.int32, (groups, self.levels, 2)),
            "thresholds": (np.uint8, (groups, self.prototypes - 1)),
            "tables": (np.int8, (shape[0], self.codebooks(shape), self.prototypes)),
        }
        self.need(parts, want, where)
        first, second = parts["questions"][..., 0], parts["questions"][..., 1]
        if first.min() < 0 or first.max() >= channels or second.min() < -channels or second.max() >= channels:
            raise FormatError(f"{where}: 'questions' must name channels 0 to {channels - 1}; the file is damaged")
        return parts["tables"].dtype


def codes(pixels: np.ndarray, questions: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(n, G) int64 leaves, 0 … K − 1, of u8 pixels (n, c); questions (G, L, 2), thresholds (G, K − 1)."""
    code = np.zeros((len(pixels), len(questions)), np.int64)
    every, x = np.arange(len(questions)), pixels.astype(np.int64)
    for level in range(questions.shape[1]):
        i, j = questions[:, level].T
        other = np.where(j >= 0, x[:, j], 255 - x[:, -1 - j])  # both are legal places, whichever is taken
        bit = (x[:, i] + other + 1) // 2 > thresholds[every, (1 << level) - 1 + code]
        code += bit.astype(np.int64) << level
    return code


def seen_by(
    h: int, w: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """(taps, p·q) int32: the pixel of a padded image h × w that an output sees at a tap; and (p, q)."""
    p, q = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip((h, w), kernel, stride, dilation))
    rows = np.arange(p) * stride[0] + np.arange(kernel[0])[:, None] * dilation[0]  # (r, p)
    columns = np.arange(q) * stride[1] + np.arange(kernel[1])[:, None] * dilation[1]  # (s, q)
    places = rows[:, None, :, None] * w + columns[None, :, None, :]
    return places.reshape(kernel[0] * kernel[1], p * q).astype(np.int32), (p, q)
