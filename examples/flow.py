"""Optical flow by a recurrent update block, sparse: how far each pixel of a scene has moved between two images.

python examples/flow.py                # a minute or two: a row for dense, one-shot pruning, SR-STE and MaxQ
"""

import torch
from compare import Task, main
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from jettison import NM

SIZE, REACH = 20, 2  # of an image; the farthest a pixel moves, along either axis
ROUNDS = 3  # of the update block


class Flow(nn.Module):
    """What RAFT (Teed and Deng 2020, arXiv 2003.12039) does, without its pyramid: compare, then refine by one block again and again.

    Two images (n, 1, h, w) → (n, 2, h, w): pixels down and to the right, estimates of all rounds if training, (ROUNDS, n, 2, h, w).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w, compared = width, (2 * REACH + 1) ** 2
        self.features = nn.Sequential(nn.Conv2d(1, w, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(w, w, 3, padding=1))
        self.motion = nn.Sequential(nn.Conv2d(compared, w, 3, padding=1), nn.ReLU(inplace=True))
        self.update, self.reset, self.new = (nn.Conv2d(2 * w + 16, w, 3, padding=1) for _ in range(3))
        self.place = nn.Conv2d(2, 16, 3, padding=1)
        self.step = nn.Sequential(nn.Conv2d(w, w, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(w, 2, 3, padding=1))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        motion = self.motion(self.compare(self.features(before), self.features(after)))
        hidden = torch.tanh(motion)
        flow = motion[:, :2] * 0
        estimates = []
        for _ in range(ROUNDS):
            seen = torch.cat((motion, torch.relu(self.place(flow))), 1)
            both = torch.cat((hidden, seen), 1)
            z, r = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            new = torch.tanh(self.new(torch.cat((r * hidden, seen), 1)))
            hidden = hidden + z * (new - hidden)
            flow = flow + self.step(hidden)
            estimates.append(flow)
        return torch.stack(estimates) if self.training else flow

    def compare(self, one: Tensor, two: Tensor) -> Tensor:
        """(n, (2·REACH + 1)², h, w): how alike a pixel is to each of those around its place in the other image."""
        h, w = one.shape[2:]
        two = pad(two, (REACH,) * 4)
        places = [(y, x) for y in range(2 * REACH + 1) for x in range(2 * REACH + 1)]
        return torch.cat([(one * two[:, :, y : y + h, x : x + w]).mean(1, keepdim=True) for y, x in places], 1)


def scenes(g: torch.Generator, n: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """n pairs of images (n, 1, h, w) and the flow (n, 2, h, w): a ground of random texture moves one way, a disc another way."""
    wide = SIZE + 2 * REACH
    texture = 3 * avg_pool2d(torch.randn(2 * n, 1, wide + 2, wide + 2, generator=g), 3, 1)
    moves = torch.randint(-REACH, REACH + 1, (2, n, 2), generator=g)
    size, middle = 4 + 3 * torch.rand(n, 1, 1, generator=g), 6 + (SIZE - 12) * torch.rand(n, 2, generator=g)
    at = torch.arange(SIZE)

    def disc(move: Tensor) -> Tensor:
        y, x = (at - middle[:, i, None] - move[:, i, None] for i in (0, 1))
        return (y[:, :, None] ** 2 + x[:, None, :] ** 2 < size**2)[:, None]

    def moved(layer: Tensor, by: Tensor) -> Tensor:
        y, x = (at + REACH - by[:, i, None] for i in (0, 1))
        return layer[torch.arange(n)[:, None, None], 0, y[:, :, None], x[:, None, :]][:, None]

    ground, thing = texture[:n], texture[n:] + 1.0
    still = torch.zeros_like(moves[0])
    before, after = (torch.where(disc(b), moved(thing, b), moved(ground, a)) for a, b in ((still, still), (moves[0], moves[1])))
    flow = torch.where(disc(still), moves[1][:, :, None, None], moves[0][:, :, None, None]).float()
    return (before, after), flow


def loss(estimates: Tensor, flow: Tensor) -> Tensor:
    """Later rounds count more, as in RAFT."""
    weight = 0.8 ** torch.arange(ROUNDS - 1, -1, -1.0)
    return ((estimates - flow).abs().mean((1, 2, 3, 4)) * weight).sum()


def right(model: nn.Module) -> float:
    """Share of the pixels whose flow is less than half a pixel from the truth."""
    images, flow = scenes(torch.Generator().manual_seed(9), 128)
    return 100 * float(((model(*images) - flow).norm(dim=1) < 0.5).float().mean())


TASK = Task(
    build=Flow,
    batch=lambda g: scenes(g, 16),
    loss=loss,
    quality=right,
    what="pixels whose flow is right",
    pattern=NM(1, 4),
    steps=600,
    lr=1e-2,
)

if __name__ == "__main__":
    main(TASK, __doc__)
