"""A U-Net, sparse: every pixel of a canvas with handwritten digits is told which digit it belongs to.

python examples/segment.py             # a minute or two: a row for dense, one-shot pruning, SR-STE and MaxQ
"""

import torch
from compare import Task, main
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jettison import NM

SIZE, DIGITS = 32, 2  # of a canvas, and on it
KINDS = 4  # 0, 1, 2 and 3; then the background


def double(c: int, k: int) -> nn.Sequential:
    layers = [(nn.Conv2d(a, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True)) for a in (c, k)]
    return nn.Sequential(*(layer for conv in layers for layer in conv))


class UNet(nn.Module):
    """Ronneberger et al. 2015 (arXiv 1505.04597) with two levels; up is nearest neighbour, for which a Conv2d makes up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.down1, self.down2, self.bottom = double(1, w), double(w, 2 * w), double(2 * w, 4 * w)
        self.up2, self.up1 = double(6 * w, 2 * w), double(3 * w, w)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(w, KINDS + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.bottom(self.pool(two))
        x = self.up2(torch.cat((two, self.grow(x)), 1))
        return self.head(self.up1(torch.cat((one, self.grow(x)), 1)))


digits = load_digits(n_class=KINDS)
IMAGES = torch.tensor(digits.images / 16, dtype=torch.float32).repeat_interleave(2, 1).repeat_interleave(2, 2)  # 16×16
LABELS = torch.tensor(digits.target)
IMPORTANCE = torch.tensor([1.0] * KINDS + [0.2])  # of the classes: most of a canvas is background
TRAINED = 560  # the others, written by other people, are judged


def canvases(g: torch.Generator, n: int, first: int, last: int) -> tuple[tuple[Tensor], Tensor]:
    """n canvases (n, 1, h, w) with digits of the rows first to last − 1, and the class of each pixel (n, h, w)."""
    canvas, target = torch.zeros(n, SIZE, SIZE), torch.full((n, SIZE, SIZE), KINDS)
    which = torch.randint(first, last, (n, DIGITS), generator=g)
    places = torch.randint(0, SIZE - 15, (n, DIGITS, 2), generator=g)
    for i in range(n):
        for j, (y, x) in zip(which[i], places[i].tolist()):
            ink = IMAGES[j] > 0.3
            canvas[i, y : y + 16, x : x + 16][ink] = IMAGES[j][ink]
            target[i, y : y + 16, x : x + 16][ink] = LABELS[j]
    noise = 0.1 * torch.randn(canvas.shape, generator=g)
    return ((canvas + noise)[:, None],), target


def right_ink(model: nn.Module) -> float:
    (x,), target = canvases(torch.Generator().manual_seed(9), 128, TRAINED, len(LABELS))
    ink = target != KINDS
    return 100 * (model(x).argmax(1) == target)[ink].float().mean().item()


TASK = Task(
    build=UNet,
    batch=lambda g: canvases(g, 16, 0, TRAINED),
    loss=lambda out, target: cross_entropy(out, target, weight=IMPORTANCE),
    quality=right_ink,
    what="ink of unseen digits told right",
    pattern=NM(1, 4),
    steps=400,
    lr=1e-2,
)

if __name__ == "__main__":
    main(TASK, __doc__)
