"""An encoder–decoder Transformer, sparse: numbers in words are written in digits, "four thousand two hundred six" as 4 2 0 6.

python examples/translate.py           # a minute or two: a row for dense, one-shot pruning, SR-STE and MaxQ
"""

import torch
from compare import Task, main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jettison import NM

NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand"""
WORDS = {word: i for i, word in enumerate(("", *NUMBERS.split()))}
SMALL, TENS = list(WORDS)[1:21], list(WORDS)[21:29]
DIGITS, START, LONGEST = 4, 10, 7  # written; the sign before the first digit; words of the longest number


def words(number: int) -> list[str]:
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    spoken = [SMALL[thousands], "thousand"] if thousands else []
    spoken += [SMALL[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        spoken += [TENS[rest // 10 - 2], *([SMALL[rest % 10]] if rest % 10 else [])]
    elif rest or not number:
        spoken += [SMALL[rest]]
    return spoken


SPOKEN = torch.tensor([[WORDS[w] for w in words(i) + [""] * (LONGEST - len(words(i)))] for i in range(10**DIGITS)])
WRITTEN = torch.tensor([[int(d) for d in f"{i:0{DIGITS}}"] for i in range(10**DIGITS)])
SHUFFLED = torch.randperm(10**DIGITS, generator=torch.Generator().manual_seed(0))
TRAINED = 9000  # of the shuffled; the others are judged


class Translator(nn.Module):
    """Vaswani et al. 2017 (arXiv 1706.03762): words (n, LONGEST) and the digits so far (n, t) → scores of each next digit (n, t, 10)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.words, self.digits = nn.Embedding(len(WORDS), width), nn.Embedding(START + 1, width)
        self.places = nn.Parameter(0.1 * torch.randn(LONGEST, width))
        self.transformer = nn.Transformer(width, 4, 2, 2, 2 * width, dropout=0.0, batch_first=True)
        self.out = nn.Linear(width, 10)

    def forward(self, spoken: Tensor, written: Tensor) -> Tensor:
        source = self.words(spoken) + self.places
        target = self.digits(written) + self.places[: written.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(written.shape[1])
        return self.out(self.transformer(source, target, tgt_mask=mask, tgt_is_causal=True))


def batch(g: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
    rows = SHUFFLED[torch.randint(0, TRAINED, (64,), generator=g)]
    before = torch.cat((torch.full((64, 1), START), WRITTEN[rows, :-1]), 1)
    return (SPOKEN[rows], before), WRITTEN[rows]


def right(model: nn.Module) -> float:
    """Whole numbers, digit after digit, each the likeliest after those before it."""
    rows = SHUFFLED[TRAINED:]
    written = torch.full((len(rows), 1), START)
    for _ in range(DIGITS):
        written = torch.cat((written, model(SPOKEN[rows], written)[:, -1:].argmax(2)), 1)
    return 100 * (written[:, 1:] == WRITTEN[rows]).all(1).float().mean().item()


TASK = Task(
    build=Translator,
    batch=batch,
    loss=lambda out, wanted: cross_entropy(out.flatten(0, 1), wanted.flatten()),
    quality=right,
    what="unseen numbers written right",
    pattern=NM(1, 4),
    steps=400,
)

if __name__ == "__main__":
    main(TASK, __doc__)
