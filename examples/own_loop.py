"""SR-STE in a training loop of your own: mixed precision, accumulated gradients, clipping, then a file that runs without PyTorch.

python examples/own_loop.py            # ends with the accuracy of the network as it was trained and as it runs
"""

import argparse

import numpy as np
import torch
from own_network import small_cnn
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from jettison import NM, SRSTE, Session, file, sparsify_
from jettison.export import export


def main(epochs: int, width: int, out: str) -> tuple[float, float]:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    train, test = slice(0, 1437), slice(1437, None)

    model = small_cnn(num_classes=10, in_channels=1, width=width)
    handle = sparsify_(model, NM(1, 4), method=SRSTE(decay=2e-4))
    for layer in handle.report():
        print(f"{layer.name:8} {layer.format!s:6} {layer.reason}")

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for epoch in range(epochs):
        model.train()
        for step, rows in enumerate(torch.randperm(1437).split(32)):
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(images[train][rows]).float(), labels[train][rows]) / 2
            scaler.scale(loss).backward()
            if step % 2 == 0:
                continue  # two batches make one optimizer step
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            handle.step()  # once per optimizer step: after unscaling and clipping, last before the optimizer
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {2 * loss.item():.3f}, mask positions changed {handle.sad().total.fraction:.1%}")

    formats = handle.finish()  # plain weights, pattern verified
    file.save(export(model.eval(), images[:1], formats), out)
    with torch.inference_mode():
        trained = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
    scores = Session(out).run(images[test].numpy())
    assert isinstance(scores, np.ndarray)
    runs = float((scores.argmax(1) == digits.target[test]).mean())
    print(f"test accuracy: {trained:.2%} in PyTorch, {runs:.2%} from {out}")
    return trained, runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", default="own_loop.jettison")
    args = parser.parse_args()
    main(args.epochs, args.width, args.out)
