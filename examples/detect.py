"""A detector with a feature pyramid, sparse: squares, discs and crosses of all sizes are found and named.

python examples/detect.py              # a minute or two: a row for dense, one-shot pruning, SR-STE and MaxQ
"""

import torch
from compare import Task, main
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from jettison import NM

SIZE, SHAPES, OBJECTS = 48, 3, 2  # of an image; kinds of objects; objects in an image
STRIDES = (4, 8, 16)
SMALLER = (10, 16, SIZE + 1)  # objects smaller than this belong to the level


def conv(c: int, k: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU(inplace=True))


class Detector(nn.Module):
    """A pyramid (Lin et al. 2017, arXiv 1612.03144) whose levels share one head (Tian et al. 2019, FCOS, arXiv 1904.01355).

    (n, 1, h, w) → (n, positions, SHAPES + 4): per position scores of the shapes, then offset of the middle and log size in strides.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem, self.c2, self.c3, self.c4 = conv(1, w, 2), conv(w, 2 * w, 2), conv(2 * w, 2 * w, 2), conv(2 * w, 4 * w, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 2 * w, 1) for c in (2 * w, 2 * w, 4 * w))
        self.smooth = nn.ModuleList(nn.Conv2d(2 * w, 2 * w, 3, padding=1) for _ in STRIDES)
        self.tower = nn.Sequential(nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.ReLU(inplace=True))  # runs on every level
        self.scores, self.boxes = nn.Conv2d(2 * w, SHAPES, 1), nn.Conv2d(2 * w, 4, 1)
        nn.init.constant_(self.scores.bias, -4.0)  # type: ignore[arg-type]  # nearly every position is background

    def forward(self, x: Tensor) -> Tensor:
        two = self.c2(self.stem(x))
        three = self.c3(two)
        levels = [layer(c) for layer, c in zip(self.lateral, (two, three, self.c4(three)))]
        for i in (1, 0):
            levels[i] = levels[i] + interpolate(levels[i + 1], scale_factor=2)
        towers = [self.tower(layer(level)) for layer, level in zip(self.smooth, levels)]
        return torch.cat([torch.cat((self.scores(t), self.boxes(t)), 1).flatten(2).transpose(1, 2) for t in towers], 1)


def places() -> Tensor:
    """(positions, 3): middle y, x and stride of every position, in the order of the network's output."""
    grids = [torch.cartesian_prod(*(torch.arange(SIZE // s) * s + s / 2,) * 2) for s in STRIDES]
    return torch.cat([torch.cat((g, torch.full((len(g), 1), float(s))), 1) for g, s in zip(grids, STRIDES)])


PLACES = places()


def scenes(g: torch.Generator, n: int) -> tuple[tuple[Tensor], tuple[Tensor, Tensor]]:
    """n images (n, 1, h, w), and of their objects the kinds (n, OBJECTS) and boxes (n, OBJECTS, 4): middle y, x, height, width."""
    kinds = torch.randint(0, SHAPES, (n, OBJECTS), generator=g)
    size = 6 + 16 * torch.rand(n, OBJECTS, 2, generator=g)
    middle = size / 2 + (SIZE - size) * torch.rand(n, OBJECTS, 2, generator=g)
    y, x = ((torch.arange(SIZE) + 0.5 - middle[..., i, None]) / size[..., i, None] * 2 for i in (0, 1))  # −1 … 1 inside
    y, x = y[..., :, None].abs(), x[..., None, :].abs()
    inside = torch.stack(((y < 1) & (x < 1), y**2 + x**2 < 1, ((y < 0.35) & (x < 1)) | ((x < 0.35) & (y < 1))))
    brightness = 0.5 + torch.rand(n, OBJECTS, 1, 1, generator=g)
    image = (inside.gather(0, kinds[None, :, :, None, None].expand(1, *inside.shape[1:]))[0] * brightness).amax(1, keepdim=True)
    return (image + 0.1 * torch.randn(image.shape, generator=g),), (kinds, torch.cat((middle, size), 2))


def assigned(boxes: Tensor) -> Tensor:
    """(n, OBJECTS): for each object the position of its level that its middle falls on."""
    level = (boxes[..., 2:].amax(2)[..., None] >= torch.tensor(SMALLER[:-1])).sum(2)
    stride = torch.tensor(STRIDES)[level]
    first = torch.tensor([0, *(SIZE // s for s in STRIDES)]).square().cumsum(0)[level]
    y, x = ((boxes[..., i] / stride).long() for i in (0, 1))
    return first + y * (SIZE // stride) + x


def loss(out: Tensor, objects: tuple[Tensor, Tensor]) -> Tensor:
    kinds, boxes = objects
    at = assigned(boxes)
    wanted = torch.zeros_like(out[..., :SHAPES])
    wanted[torch.arange(len(at))[:, None], at, kinds] = 1.0
    scores = out[..., :SHAPES]
    focus = (wanted - scores.sigmoid()).abs().detach() ** 2  # focal loss, Lin et al. 2017 (arXiv 1708.02002)
    named = (focus * binary_cross_entropy_with_logits(scores, wanted, reduction="none")).sum() / at.numel()
    here, place = out.gather(1, at[..., None].expand(-1, -1, out.shape[2]))[..., SHAPES:], PLACES[at]
    target = torch.cat(((boxes[..., :2] - place[..., :2]) / place[..., 2:], (boxes[..., 2:] / place[..., 2:]).log()), 2)
    return named + (here - target).abs().mean()


def found(model: nn.Module) -> float:
    """F1: detections with a score above 0.3 that are right (same shape, overlap above one half) among detections and objects."""
    (x,), (kinds, boxes) = scenes(torch.Generator().manual_seed(9), 128)
    right = claimed = 0
    for out, of_kind, truth in zip(model(x), kinds, boxes):
        score, kind = out[:, :SHAPES].sigmoid().max(1)
        box = torch.cat((PLACES[:, :2] + out[:, SHAPES : SHAPES + 2] * PLACES[:, 2:], out[:, SHAPES + 2 :].exp() * PLACES[:, 2:]), 1)
        kept: list[int] = []
        for i in score.argsort(descending=True)[: int((score > 0.3).sum())].tolist():  # greedy non-maximum suppression
            if not kept or overlap(box[i : i + 1], box[kept]).max() < 0.5:
                kept.append(i)
        hits = [(overlap(truth[j : j + 1], box[kept]) > 0.5) & (kind[kept] == of_kind[j]) for j in range(OBJECTS) if kept]
        right += sum(bool(h.any()) for h in hits)
        claimed += len(kept)
    return 200 * right / (claimed + boxes.shape[0] * OBJECTS)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (…, 4)."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    both = (high - low).clamp(min=0).prod(1)
    return both / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - both)


TASK = Task(
    build=Detector,
    batch=lambda g: scenes(g, 16),
    loss=loss,
    quality=found,
    what="F1 of the objects found",
    pattern=NM(1, 4),
    steps=500,
    lr=1e-2,
    exclude=("scores", "boxes"),  # the head has two last layers
)

if __name__ == "__main__":
    main(TASK, __doc__)
