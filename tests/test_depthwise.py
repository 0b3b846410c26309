"""Strided depthwise convolutions in a bfloat16 training: float32 inside, as they were outside."""

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from jettison.training.depthwise import strided_in_float32  # noqa: E402

torch.set_num_threads(1)


def gradient(conv: nn.Conv2d, x: torch.Tensor, bf16: bool = True) -> torch.Tensor:
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = conv(x)
    y.backward((torch.arange(y.numel()).view_as(y) % 7 - 3).to(y.dtype))
    assert conv.weight.grad is not None
    return conv.weight.grad.clone()


@pytest.mark.parametrize(
    ("conv", "is_exact"),
    [
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), True),
        (nn.Conv2d(8, 16, 3, stride=(1, 2), groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, stride=2, groups=4), False),
        (nn.Conv2d(8, 8, 3, stride=2), False),
    ],
    ids=str,
)
def test_only_strided_depthwise_convolutions_are_exact(conv: nn.Conv2d, is_exact: bool) -> None:
    x = torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, exact = gradient(conv, x), gradient(conv, x.float(), bf16=False)
    with strided_in_float32(conv):
        assert torch.equal(gradient(conv, x), exact if is_exact else plain)
    assert torch.equal(gradient(conv, x), plain) and not torch.equal(plain, exact)  # afterwards all is as before


def test_what_fails_inside_leaves_autocast_as_it_was() -> None:
    conv = nn.Conv2d(8, 8, 3, stride=2, groups=8)
    with strided_in_float32(conv), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            conv(torch.randn(4, 7, 9, 9))
        assert torch.is_autocast_enabled("cpu")
        assert conv(torch.randn(4, 8, 9, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16
