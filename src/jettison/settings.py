"""Every choice of the main job, `compression.compress`, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from . import budget, ptq
from .errors import ModelError, PatternError, QuantizationError, TrainingError, instead_of_percent, no_effect
from .formats import NM, Block, Dense, Format, parse
from .methods import Method, Select, make_method
from .methods.select import REMAINDERS
from .tabconv import job
from .training import Recipe
from .training.data import HEADS

ELEMENTS = ("f32", "int8")
CRISP_PATTERN = "32x32/2:4"  # where none is named
QAT_LR = 0.1  # share of the learning rate for fine-tuning with rounding
STAGES = ("dense", "sparse", "qat", "tables")
DENSE_WEIGHT_DECAY = 5e-4  # of the baseline: twenty runs of He et al.'s recipe; pruned weights want less


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the result; an interrupted run is resumed only with the same.

    weights, teacher: paths; teacher "dense" is the baseline itself. decay, ramp_epochs: see `methods.make_method`.
    permute: move channels before pruning (`methods.permute`); reconstruct: prune by `methods.reconstruct`, on `calibrate` training images,
    on which BatchNorm is matched (`methods.statistics`) whenever no training follows.
    kept: N of every M is chosen layer by layer (`jettison.budget`), at the cost of this share in every layer; M, and what channels are
    permuted for, come from the pattern. budget: the cost, one of `budget.COSTS`.
    formats: (layer, pattern) of each layer instead, as a budget or a search found them; layers that are not named stay dense.
    dense_epochs, epochs: of dense training and of sparse training. mixup, hints, dropout: of all training but the dense
    network's, see `Recipe`.
    include, exclude, remainder: see `methods.Select`.
    element: "f32", or "int8" for post-training quantisation at the end, on as many images, with `ranges` as in
    `ptq.quantize` and the `keep_float` most sensitive layers left in float32; before that, `qat_epochs` of training with
    rounding (`methods.qat`), at a tenth of the learning rate.
    classes: names of those that matter, all if empty; everything after dense training sees only their images. others: share of what
    training then sees that is of the other classes all the same, others in each epoch. head: "keep" all
    outputs or "shrink" them to the classes, after training (tables: before).
    Method crisp: sparsity to reach over the prunable weights, None for what the pattern
    says; start: path of a personalised network's checkpoint to start from (`personal`).
    Method tabconv makes pattern lutV or pixelV, or lutV,LAYER=lutV,… with another for some layers (* allowed, the last that fits counts),
    in int8 from `fit_images` training images, and augmented ones where that is more than there are, of the layers that `criterion` and
    the budgets leave (`tabconv.priority`); `epochs` then train the tables, guided by the exact int8 network unless there is a `teacher`.
    Errors: PatternError, ModelError, TrainingError, QuantizationError, TabConvError.
    """

    model: str
    pattern: str = "1:4"
    method: str = "srste"
    weights: str | None = None
    teacher: str | None = None
    dense_epochs: int = 0
    epochs: int = 10
    lr: float = 0.05
    weight_decay: float = 5e-5
    mixup: float = 0.0
    dropout: float = 1.0
    decay: float | None = None
    ramp_epochs: float | None = None
    permute: bool = False
    reconstruct: bool = False
    kept: float | None = None
    budget: str = "macs"
    formats: tuple[tuple[str, str], ...] = ()
    batch: int = 128
    bf16: bool = False
    distill: float = 0.5
    hints: float = 0.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    remainder: str = "refuse"
    seed: int = 0
    element: str = "f32"
    calibrate: int = 512
    ranges: str = "mse"
    equalize: bool = False
    keep_float: int = 0
    qat_epochs: int = 0
    classes: tuple[str, ...] = ()
    others: float = 0.0
    head: str = "keep"
    sparsity: float | None = None
    start: str | None = None
    fit_images: int = 2048
    criterion: str = "cosine"
    budget_ops: float | None = None
    budget_accuracy: float | None = None
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        self._check_formats()
        for what, value, known in (("element", self.element, ELEMENTS), ("ranges", self.ranges, tuple(ptq.RANGES))):
            if value not in known:
                raise QuantizationError(f"{what} must be one of {', '.join(known)}, got {value!r}")
        if self.qat_epochs and self.element != "int8":
            raise QuantizationError("quantisation-aware epochs prepare for int8; write element int8 too")
        for what, value in (("equalize", self.equalize), ("keep-float", self.keep_float)):
            if value and self.element != "int8":
                raise QuantizationError(f"--{what} prepares for int8; write element int8 too")
        for what, value in (("permute", self.permute), ("reconstruct", self.reconstruct)):
            if value and not isinstance(self.format, NM):
                raise PatternError(f"--{what} is for N:M, for example 2:4, not for {self.pattern}; leave it out")
        if self.format == Dense() and self.element == "f32":
            raise PatternError("pattern 'dense' in f32 leaves nothing to compress; write N:M, for example 1:4, or element int8")
        job.check(self)
        untrained = self.epochs == 0 and (self.qat_epochs == 0 or self.method != "asp")
        if self.method != job.METHOD and self.make_method().retrain and untrained and self.format != Dense():
            raise TrainingError(f"method {self.method} needs epochs; to prune once without retraining use method asp with 0 epochs")
        self._check_effects()
        self._check_classes()
        budget.check(self.kept, self.budget, self.format)
        if self.kept is not None and self.reconstruct:
            raise PatternError("--reconstruct refits layers to one pattern for all; leave out --kept or --reconstruct")
        if self.start is None and self.weights is None and self.dense_epochs == 0:
            raise ModelError("there is nothing trained to start from: give weights, or epochs of dense training")
        if self.remainder not in REMAINDERS:
            raise TrainingError(f"remainder must be one of {', '.join(REMAINDERS)}, got {self.remainder!r}")
        for stage in STAGES:
            self.recipe(stage)  # refuses numbers that make no sense

    def _check_effects(self) -> None:
        """Errors: TrainingError for a choice that nothing would heed."""
        tables = self.method == job.METHOD
        for name, needs, there in (
            ("distill", "--teacher", self.teacher is not None or tables),
            ("hints", "--teacher, and another method than tabconv", self.teacher is not None and not tables),
            ("others", "--classes, and another method than tabconv", bool(self.classes) and not tables),
            ("budget", "--kept", self.kept is not None),
            ("ranges", "--element int8", self.element == "int8"),
            ("fit_images", "--method tabconv", tables),
            ("criterion", "--method tabconv and a budget", tables and job.budget_of(self).given),
            ("bf16", "--dense-epochs, or another method than tabconv", self.dense_epochs > 0 or not tables),
            ("weight_decay", "another method than tabconv", not tables),
            ("mixup", "another method than tabconv", not tables),
            ("dropout", "another method than tabconv", not tables),
            ("remainder", "another method than tabconv", not tables),
            ("decay", "N:M or blocks", not tables),
            ("ramp_epochs", "--method maxq", not tables),
        ):
            if getattr(self, name) != DEFAULTS[name] and not there:
                raise no_effect(f"--{OPTIONS.get(name, name.replace('_', '-'))}", needs)

    def _check_classes(self) -> None:
        """Errors: PatternError, TrainingError for settings that only make sense together."""
        crisp = self.method == "crisp"
        if self.head not in HEADS:
            raise TrainingError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        if self.head == "shrink" and not self.classes:
            raise TrainingError("a head shrinks to chosen classes; name them with --classes")
        if crisp and not isinstance(self.format, Block):
            raise PatternError(f"method crisp removes whole blocks; write a pattern such as {CRISP_PATTERN}, not {self.pattern}")
        if crisp and self.sparsity is None and isinstance(self.format, Block) and self.format.keep == 1:
            raise PatternError(f"method crisp must know how many blocks go; give --sparsity 0.92, or write {self.pattern}@15%")
        for what, value in (("sparsity", self.sparsity), ("from", self.start)):
            if value is not None and not crisp:
                raise TrainingError(f"--{what} belongs to method crisp; {self.method} takes its sparsity from the pattern")
        if self.start is not None and (self.weights is not None or self.dense_epochs):
            raise TrainingError("--from brings its own dense weights; leave out --weights and --dense-epochs")
        if not 0 <= self.others < 1:
            raise TrainingError(f"others is a share from 0 to below 1, got {self.others}{instead_of_percent(self.others)}")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise TrainingError(f"sparsity is a share between 0 and 1, got {self.sparsity}{instead_of_percent(self.sparsity)}")
        if self.sparsity is not None and isinstance(self.format, Block) and self.format.keep < 1:
            raise PatternError(f"pattern {self.pattern} already says how many blocks stay; leave out its @… or --sparsity")

    def _check_formats(self) -> None:
        """Errors: PatternError, also for settings that choose otherwise which layers have what."""
        if not self.formats:
            return
        by_layer = self.by_layer
        wrong = [f"{name} {f}" for name, f in by_layer.items() if not isinstance(f, NM | Dense)]
        if wrong:
            raise PatternError(f"--formats: layers have N:M or are dense, not {wrong[0]}")
        if all(isinstance(f, Dense) for f in by_layer.values()):
            raise PatternError("--formats: all layers are dense, so there is nothing to prune")
        for name in ("kept", "permute", "reconstruct", "include", "exclude"):
            if getattr(self, name) != DEFAULTS[name]:
                raise PatternError(f"--formats says the pattern of each layer; leave out --{name}")
        if self.method in ("crisp", job.METHOD):
            raise PatternError(f"--formats is for N:M; method {self.method} chooses by itself: leave it out")

    @property
    def by_layer(self) -> dict[str, Format]:
        """Of `formats`."""
        return {name: parse(text) for name, text in self.formats}

    @property
    def format(self) -> Format:
        """Of every layer; with `kept` of the average one; of tables that of layers without their own."""
        return job.formats_of(self.pattern)[0]

    @property
    def label(self) -> str:
        """What the compressed network is called beside the dense one."""
        if self.formats:
            return "N:M by layer"
        return self.pattern if self.kept is None else f"{self.kept:.4g} kept"

    @property
    def select(self) -> Select:
        return Select(include=self.include, exclude=self.exclude)

    def make_method(self) -> Method:
        """For the epochs of sparse training; with none, one-shot pruning unless epochs with rounding follow."""
        return make_method(self.method, self.epochs or self.qat_epochs, self.decay, self.ramp_epochs)

    @property
    def stages(self) -> list[str]:
        """Those of training."""
        return [stage for stage in STAGES if self.recipe(stage).epochs]

    def recipe(self, stage: str, epochs: int | None = None) -> Recipe:
        """Of "dense", "sparse", "qat" or "tables" training; epochs: of a part of it."""
        first, tables = stage == "dense", stage == "tables"
        return Recipe(
            epochs={"dense": self.dense_epochs, "qat": self.qat_epochs}.get(stage, self.epochs) if epochs is None else epochs,
            batch=self.batch,
            optimizer="adamw" if tables else "sgd",
            lr=self.lr * {"qat": QAT_LR, "tables": job.rate(self.pattern)}.get(stage, 1.0),
            weight_decay=DENSE_WEIGHT_DECAY if first else 0.0 if tables else self.weight_decay,
            distill=self.distill if (self.teacher or tables) and not first else 0.0,
            hints=self.hints if self.teacher and not (first or tables) else 0.0,
            mixup=0.0 if first else self.mixup,
            dropout=1.0 if first else self.dropout,
            bf16=self.bf16 and stage not in ("qat", "tables"),  # which would round inputs a second time
            seed=self.seed,
        )


DEFAULTS = {f.name: f.default for f in fields(Settings)}
OPTIONS = {"ranges": "range"}  # of the command line, where they are called otherwise
