"""The progress bar: epoch, loss, images per second, the last accuracy and SAD."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """One line for the whole training, redrawn in place; silent when `shown` is False."""

    def __init__(self, steps: int, done: int, shown: bool) -> None:
        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, disable=not shown)
        self._task = self._progress.add_task("", total=max(steps, 1), completed=done)
        self._tail = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, epoch: int, loss: float, images_per_s: float) -> None:
        text = f"epoch {epoch + 1}  loss {loss:.3f}  {images_per_s:.0f} images/s{self._tail}"
        self._progress.update(self._task, advance=1, description=text)

    def epoch(self, accuracy: float, sad: float | None) -> None:
        self._tail = f"  accuracy {accuracy:.1%}" + (f"  SAD {sad:.2%}" if sad is not None else "")
