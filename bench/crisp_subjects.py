"""The networks of bench/crisp.py, and how each learns: to tell all classes apart, and then the chosen ones, pruned."""

from __future__ import annotations

from dataclasses import dataclass, field

from jettison.formats import NM


@dataclass(frozen=True, slots=True)
class Subject:
    """A network on a data set. block: side of the blocks.

    dense_epochs, dense_lr: of the training on all classes. epochs: by how many classes are chosen; more where there are few images, so
    that steps do not get too few. batch: by how many, too; 64 where none is given. lr, mixup, hints, others, dropout: of that training.
    stem_stride: of the first convolution; 2 quarters the cost of an image. teacher: whose dense network, on the same data, this one
    learns from when it is trained on all classes. backbone: whose dense network, on any data, it starts from.
    nm: N:M alone of about the same density, of each layer the first that fits.
    """

    model: str
    data: str
    block: int
    dense_epochs: int
    epochs: dict[int, int]
    dense_lr: float = 0.1
    batch: dict[int, int] = field(default_factory=dict)
    lr: float = 0.02
    mixup: float = 0.0
    hints: float = 0.0
    others: float = 0.0
    dropout: float = 1.0
    stem_stride: int = 1
    teacher: str = ""
    backbone: str = ""
    nm: tuple[NM, ...] = (NM(5, 64),)


TINY = {"epochs": {2: 180, 5: 90, 10: 60}, "lr": 0.007, "mixup": 1.0}  # 100 images a class are soon learnt by heart
FIT = (NM(5, 64), NM(1, 12), NM(3, 40), NM(1, 16))  # MobileNetV2's channels
FEW = {"mixup": 1.0, "hints": 1.0, "others": 0.5, "stem_stride": 2}

SUBJECTS = {
    "resnet20_cifar": Subject("resnet20_cifar", "cifar10", 16, 12, {2: 18, 5: 18}, nm=(NM(1, 16),)),
    "resnet18_strided": Subject("resnet18_strided", "cifar10", 32, 20, {2: 18, 5: 18}),
    "vgg16_bn": Subject("vgg16_bn", "cifar10", 32, 8, {2: 8, 5: 12}, dense_lr=0.05, hints=1.0),
    "mobilenetv2_100": Subject("mobilenetv2_100", "cifar10", 16, 16, {2: 18, 5: 18}, stem_stride=2, teacher="resnet18_strided", nm=FIT),
    "resnet18_strided-tiny": Subject("resnet18_strided", "tiny-imagenet", 32, 40, **TINY),
    "vgg16_bn-tiny": Subject("vgg16_bn", "tiny-imagenet", 32, 20, {2: 90, 5: 45, 10: 30}, dropout=0.0, backbone="vgg16_bn", **FEW),
    # few weights to spare, so what they do is learnt anew: a high rate, and more to learn from
    "mobilenetv2_100-tiny": Subject(
        "mobilenetv2_100", "tiny-imagenet", 16, 24, {2: 100, 5: 50, 10: 50}, batch={2: 16}, lr=0.1, nm=FIT, **FEW
    ),
}
