"""Rows of bench/tabconv.py: networks, their data, and which layer gets how many codebooks."""

from __future__ import annotations

from dataclasses import dataclass

EPOCHS = 10

EVERY = ("conv1", "layer*")  # layers of a ResNet: all but the classifier
# What a shortcut loses no layer behind it can know, and it has few inputs: shortcuts and stem get more codebooks, layers of one pixel less.
MORE_IN_SHORTCUTS = (
    "conv1=lut25x256",
    "layer1.*=lut144x256",
    "layer2.*=lut288x256",
    "layer2.0.conv1=lut144x256",
    "layer3.*=lut288x256",
    "layer3.0.conv1=lut144x256",
    "layer4.*=lut576x256",
    "layer4.0.conv1=lut384x256",
    "*.downsample.0=lut8x256",
    "layer4.0.downsample.0=lut16x256",
)

# With more prototypes, which cost a comparison each time their number doubles, shortcuts need fewer codebooks again. They go where a layer
# made tables alone moves the scores most: early ones. Layers that an image has few rows for have fewer prototypes.
MORE_PROTOTYPES = (
    "conv1=lut25x65536",
    "layer1.*=lut96x16384",
    "layer1.0.conv1=lut144x16384",
    "layer1.0.downsample.0=lut22x16384",
    "layer2.*=lut288x16384",
    "layer2.0.conv1=lut116x16384",
    "layer2.0.conv2=lut231x16384",
    "layer2.0.downsample.0=lut16x16384",
    "layer2.1.conv1=lut231x16384",
    "layer3.*=lut288x4096",
    "layer3.0.conv1=lut144x4096",
    "layer3.0.downsample.0=lut16x4096",
    "layer3.1.conv1=lut384x4096",
    "layer4.*=lut1152x1024",
    "layer4.0.conv1=lut384x1024",
    "layer4.0.conv2=lut576x1024",
    "layer4.0.downsample.0=lut16x4096",
)

FOR_RESNET34 = (
    "conv1=lut25x65536",
    "layer1.*=lut83x16384",
    "layer1.0.downsample.0=lut22x16384",
    "layer2.*=lut165x16384",
    "layer2.0.conv1=lut83x16384",
    "layer2.0.downsample.0=lut13x16384",
    "layer3.*=lut192x4096",
    "layer3.0.conv1=lut96x4096",
    "layer3.0.downsample.0=lut13x4096",
    "layer4.*=lut576x1024",
    "layer4.0.conv1=lut384x1024",
    "layer4.0.downsample.0=lut16x4096",
)

FOR_NIN = (
    "conv1=lut25x65536",
    "cccp1=lut48x16384",
    "cccp2=lut54x16384",
    "conv2=lut150x16384",
    "cccp[34]=lut48x16384",
    "conv3=lut144x4096",
)

# Of ResNet-20 the last stage costs most accuracy: it gets more codebooks, for what codes of a pixel's three colours save in the stem, and
# fewer prototypes, as an image has few rows for it.
MORE_AT_THE_END = (
    "conv1=pixel3x16384",
    "layer3.*=pixel8x8192",
    "layer3.0.conv1=pixel6x8192",
    "layer3.1.conv1=pixel7x8192",
    "layer3.1.conv2=pixel7x8192",
    "layer3.2.conv1=pixel6x8192",
)

# Where a good third of the operations is to be saved, early layers alone save it: codes of few channels there lose next to nothing.
FEW_CHANNELS = ("conv1=pixel3x1024", "layer2.*=pixel3x128")


@dataclass(frozen=True, slots=True)
class Case:
    """A row. saved, kept: shares of operations and of accuracy, in percent, that the paper reports; `budget` keeps that saving.

    include: layers made tables although stem or of few pixels, without which the paper's largest savings cannot be reached. exclude: layers
    that stay exact, chosen by hand.
    epochs: of training the tables. fit_images: that they are fitted to; a layer of one pixel needs one for each prototype. layers: with
    a pattern of their own.
    """

    network: str
    data: str
    pattern: str
    dense_epochs: int
    budget: float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    saved: float | None = None
    kept: float | None = None
    epochs: int = EPOCHS
    fit_images: int = 2048
    layers: tuple[str, ...] = ()
    bf16: bool = False

    @property
    def name(self) -> str:
        marks = [str(self.epochs)] * (self.epochs != EPOCHS) + ["layers"] * bool(self.layers)
        return "-".join((self.network, self.data, self.pattern, *marks))


CASES = (
    Case("resnet20_cifar", "cifar10", "lut9", 0),
    Case("resnet20_cifar", "cifar10", "lut9x256", 0),
    Case("resnet20_cifar", "cifar10", "pixel8x1024", 0, epochs=5, fit_images=4096),
    Case("resnet20_cifar", "cifar10", "pixel8x16384", 0, include=("conv1",), epochs=3, fit_images=50000, layers=MORE_AT_THE_END),
    Case("nin", "mnist", "lut48x4096", 3, include=("conv1",), saved=98.9, kept=81, epochs=6, fit_images=60000, layers=FOR_NIN, bf16=True),
    Case("resnet18_strided", "mnist", "lut171x256", 3, include=EVERY, saved=99.4, kept=93, fit_images=8192),
    Case("resnet18_strided", "mnist", "lut171x256", 3, include=EVERY, saved=99.4, kept=93, fit_images=8192, layers=MORE_IN_SHORTCUTS),
    Case(
        "resnet18_strided",
        "mnist",
        "lut171x4096",
        3,
        include=EVERY,
        saved=99.4,
        kept=93,
        epochs=18,
        fit_images=120000,
        layers=MORE_PROTOTYPES,
    ),
    Case(
        "resnet18_strided",
        "cifar10",
        "pixel4x128",
        30,
        include=("conv1",),
        exclude=("layer[34].*", "*.downsample.0"),
        saved=36.5,
        kept=93,
        epochs=2,
        fit_images=20000,
        layers=FEW_CHANNELS,
    ),
    Case(
        "resnet34_strided",
        "cifar10",
        "pixel4x128",
        20,
        include=("conv1", "layer3.0.conv*"),
        exclude=("layer3.[1-5].*", "layer4.*", "*.downsample.0"),
        saved=35.6,
        kept=93,
        epochs=2,
        fit_images=20000,
        layers=("conv1=pixel3x1024", "layer3.0.conv1=pixel3x128", "layer3.0.conv2=pixel3x64"),
        bf16=True,
    ),
    Case(
        "resnet34_strided",
        "mnist",
        "lut144x4096",
        3,
        include=EVERY,
        saved=99.3,
        kept=93,
        epochs=12,
        fit_images=120000,
        layers=FOR_RESNET34,
    ),
    Case(  # in the place of CIFAR-100
        "resnet18_strided",
        "tiny-imagenet",
        "pixel3x128",
        0,
        include=("conv1",),
        exclude=("layer2.1.*", "layer[34].*", "*.downsample.0"),
        saved=25.8,
        kept=93,
        epochs=2,
        fit_images=20000,
        layers=("conv1=pixel3x1024",),
    ),
    Case(  # no figure of the paper's: early layers alone, fitted and not trained
        "nin",
        "cifar10",
        "pixel4x128",
        8,
        include=("conv1",),
        exclude=("cccp[3-6]", "conv3"),
        epochs=0,
        fit_images=8192,
        layers=("conv1=pixel3x1024",),
        bf16=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A rival of the tables: this share of the weights removed by whole blocks and, inside of those that stay, by N:M."""

    network: str
    data: str
    pattern: str
    sparsity: float
    epochs: int = EPOCHS

    @property
    def label(self) -> str:
        return f"{self.pattern}@{self.sparsity:.1%}"

    @property
    def name(self) -> str:
        return f"{self.network}-{self.data}-{self.label.replace('/', '-').replace(':', '_')}"


HYBRIDS = (
    Hybrid("resnet20_cifar", "cifar10", "16x16/2:4", 0.75),
    Hybrid("resnet20_cifar", "cifar10", "16x16/2:4", 0.875),
)
