"""The sections of a spec, as closed pydantic models: what each key means, what it takes, and its default.

The models describe a spec whose search values have been replaced and whose expressions have been
evaluated. `model`, `augment` and `blocks` are lists of nodes and stand in `nodes.py`; what is named
from a closed list (an optimizer, a loss) is marked with `Named` and checked by `arguments.py`.
The sentence under a field becomes its description in the JSON Schema.
"""

from __future__ import annotations

import math
from importlib.metadata import entry_points
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator

from kerasimg.errors import counted
from kerasimg.spec.kinds import FLOAT32_MAX

FORMAT_VERSION = 1


class Named(NamedTuple):
    """Marks a field that takes a name of a group of `keras_table.json`, or `{"type": name, argument: value}`."""

    group: str
    also: tuple[str, ...] = ()
    """Further strings that the field takes."""
    mergeable: bool = False
    """Whether a child may give some of its arguments and leave the rest, and the type, to its parent."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """A marker for `schema.py`; pydantic itself accepts any value."""
        return {"named": self._asdict()}


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


def _in_float32(value: float) -> float:
    if abs(value) > FLOAT32_MAX or 0 < abs(value) < 1 / FLOAT32_MAX:
        raise ValueError("the number is out of range for float32")
    return value


def _as_seed(value: int) -> int:
    if value > MAX_SEED:
        raise ValueError(f"expected a seed of at most {MAX_SEED:,}")
    return value


MAX_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0), AfterValidator(_as_seed)]
Channel = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_in_float32)]
Divisor = Annotated[float, Field(gt=0), AfterValidator(_in_float32)]

SAMPLERS: Final = "kerasimg.samplers"
"""The entry point group through which other packages add search algorithms: `name = module:Class`."""


def _known_sampler(value: Any, check: Any) -> Any:
    try:
        return check(value)
    except ValidationError:
        if isinstance(value, str) and entry_points(group=SAMPLERS, name=value):
            return value
        raise


SamplerName = Annotated[Literal["random", "grid", "bayesian", "hyperband"], WrapValidator(_known_sampler)]
ResizePolicy = Literal["stretch", "crop", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "area"]
ScaleName = Literal["auto", "none", "unit", "symmetric", "imagenet", "caffe"]
WeightKind = Literal["bias", "norm", "layer_scale", "token", "position", "depthwise"]
Task = Literal["multiclass", "binary", "multilabel"]


class Section(BaseModel):
    """The base of every section: closed (an unknown key is an error), frozen, strict about types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Card(Section):
    """The source of a spec, its license, and its known results."""

    source: str | None = None
    """The paper or page that the spec follows: authors, title, id."""
    year: int | None = None
    """Year of the source."""
    license: str | None = None
    """Licence of the spec and of the weights it names, as an SPDX identifier where there is one."""
    figures: dict[str, float | int | str] = {}
    """Known results, each with its conditions: {"ImageNet top-1, 224 px": 0.718}."""
    notes: str | None = None
    """Notes for users who consider this spec."""
    origin: str | None = None
    """The program that wrote the spec, if any: the search, its spec, and the trial."""


class Standardize(Section):
    """Pixels in 0-255 become (pixel - mean) / std, each a number or one number per channel."""

    mean: Channel | list[Channel] = 0.0
    """Subtracted from the pixel value (0-255)."""
    std: Divisor | list[Divisor] = 1.0
    """Divides what is left."""


class Image(Section):
    """The preprocessing: how an image becomes the model's input, in training and in every export."""

    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [224, 224]
    """[height, width] in pixels."""
    channels: Literal[1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] = 3
    """3: RGB. 1: grey (ITU-R 601-2 luma). 4 to 16: the bands of multispectral TIFF and .npy files, as stored."""
    range: Annotated[list[Channel], Field(min_length=2, max_length=2)] | None = None
    """[low, high]: the values of 4 to 16 bands that become 0 and 255; those outside are clipped. null: 0 to 255."""
    resize: ResizePolicy = "stretch"
    """stretch: to the size, whatever the aspect ratio. crop: the shorter side fits, the centre is used. pad: the
    longer side fits, the rest is background."""
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)] = 1.0
    """The image is resized for size / crop_fraction, and the centre is used: `crop_pct` of timm."""
    interpolation: Interpolation = "bilinear"
    """The filter of the resize, always antialiased (except nearest)."""
    background: Annotated[list[Byte], Field(min_length=3, max_length=3)] = [255, 255, 255]
    """RGB on which transparent images are flattened, and with which `pad` fills."""
    scale: ScaleName | Standardize = "auto"
    """Scaling of pixels of 0-255. auto: as the backbone expects, else unit. none: 0 to 255. unit: 0 to 1.
    symmetric: -1 to 1. imagenet: minus mean, by standard deviation, of ImageNet. caffe: BGR minus mean."""

    @model_validator(mode="after")
    def _bands(self) -> Image:
        if self.range is not None and self.channels <= 3:
            raise ValueError(f"range is for images of 4 to 16 channels, and these have {self.channels}")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range: expected [low, high] with low < high, got {self.range}")
        if self.channels > 3 and self.scale in ("imagenet", "caffe"):
            raise ValueError(f'scale "{self.scale}" is for 3 channels; for {self.channels}, give mean and std')
        if isinstance(self.scale, Standardize):
            for name in ("mean", "std"):
                values = getattr(self.scale, name)
                if isinstance(values, list) and self.channels > 3 and len(values) != self.channels:
                    channels = counted(self.channels, "channel")
                    raise ValueError(f"scale.{name} has {counted(len(values), 'value')}, and the image {channels}")
        return self

    @property
    def resized(self) -> tuple[int, int]:
        """[height, width] that `resize` aims at, of which `size` is the centre."""
        height, width = (math.floor(side / self.crop_fraction) for side in self.size)
        return height, width


class Compile(Section):
    """The arguments of `model.compile`."""

    optimizer: Annotated[Any, Named("optimizers", mergeable=True)] = "Adam"
    """A name of keras.optimizers, or {"type": name, argument: value}."""
    weight_decay_mode: Literal["decoupled", "coupled"] = "decoupled"
    """How the optimizer's `weight_decay` acts. decoupled: w -= rate * decay * w, as in AdamW and in all of Keras.
    coupled: decay * w is added to the gradient, as PyTorch's SGD, Adam and RMSprop and the papers before AdamW do."""
    exclude_from_weight_decay: list[WeightKind] = []
    """Kinds of weights that do not decay. norm: scale and shift of normalizations, and single numbers that a layer
    learns. token, position: of transformers. depthwise: filters of depthwise convolutions."""
    loss: Annotated[Any, Named("losses", also=("auto",), mergeable=True)] = "auto"
    """A name of keras.losses, {"type": ...}, or auto: the cross-entropy that fits the task and the output."""
    metrics: list[Annotated[Any, Named("metrics", also=("accuracy", "f1"))]] = ["accuracy"]
    """Names of keras.metrics or kerasimg.metrics, {"type": ...}, "accuracy", or "f1" (macro F1)."""
    steps_per_execution: PositiveInt | Literal["auto"] = "auto"
    """Training steps per call of the compiled function; auto: several if a step is short. Does not change the
    results."""
    jit_compile: bool | Literal["auto"] | None = None
    """Compile with XLA. auto: if a step is faster, by a short probe. null: as Keras does, on GPUs."""


class EarlyStopping(Section):
    """Ends a stage that no longer improves, and restores its best epoch."""

    monitor: str = "val_loss"
    """The metric to monitor."""
    mode: Literal["min", "max", "auto"] = "auto"
    """Whether less or more is better; auto: as the metric's class says (docs/evaluation.md)."""
    patience: NonNegativeInt = 5
    """Epochs without improvement before the stage ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Least change that counts as an improvement."""
    restore_best_weights: bool = True
    """Restore the weights of the best epoch; the stage's `keep` takes precedence."""


class Lora(Section):
    """Low-rank adapters for frozen layers (Hu et al. 2021, arXiv:2106.09685)."""

    rank: PositiveInt = 8
    """Columns of the first and rows of the second matrix that are added to a kernel."""
    alpha: PositiveFloat | None = None
    """The adapters are scaled by alpha / rank; null: not scaled."""


class Stage(Section):
    """One span of epochs with its own trainable layers and learning rate."""

    epochs: PositiveInt = 10
    """Epochs this stage adds."""
    unfreeze: dict[str, NonNegativeInt] = {}
    """Node name -> number of its last layers that train from this stage on; 0: all."""
    freeze: list[str] = []
    """Names of the nodes that no longer train from this stage on."""
    lora: Lora | None = None
    """Trains the frozen dense and attention layers by low-rank adapters, which are merged at the end of the stage."""
    learning_rate: Annotated[Any, Named("schedules")] | None = None
    """A number or a schedule of Keras, which counts steps; null: the rate of `compile.optimizer`."""
    warmup_epochs: NonNegative = 0.0
    """Epochs, or part of one, over which the rate rises from 0 to its value; a schedule begins after them."""
    decay: Literal["none", "cosine", "linear"] = "none"
    """How a constant rate decays to 0 over the rest of the stage's epochs. none: it does not."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block learns at the rate of the next block times this; the last one at the rate itself. 1: all equal."""
    early_stopping: EarlyStopping | None = None
    """null: every epoch is trained."""
    keep: Literal["auto", "best", "last"] = "auto"
    """The final weights of the stage. best: of the best epoch by `monitor`. last: of the last epoch. auto: best if
    `early_stopping` restores the best weights, else last."""
    monitor: str | None = None
    """The metric that decides which epoch is best; null: that of `early_stopping`, else `val_loss`."""
    mode: Literal["min", "max", "auto"] = "auto"
    """Whether less or more of `monitor` is better; auto: as the metric's class says."""
    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    """[height, width] of this stage's images, for progressive resizing; null: `image.size`."""

    @model_validator(mode="after")
    def _one_way_down(self) -> Stage:
        if self.decay != "none" and not (self.learning_rate is None or isinstance(self.learning_rate, int | float)):
            raise ValueError("decay is for a learning_rate that is a number; a schedule decays by itself")
        return self


class Teacher(Section):
    """A trained model whose predictions are learned too (knowledge distillation)."""

    run: str
    """Its run's folder, or its model.keras, relative to the current folder. It must have the same classes
    and image size."""
    temperature: PositiveFloat = 3.0
    """Softens both models' probabilities before they are compared; higher values show more of unlikely classes."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The teacher's share of the loss; the rest is the loss of the labels."""


class GroupColumn(Section):
    """Groups by a column of the manifest."""

    column: str
    """Its name; images of the same value are a group."""


Group = Literal["folder"] | GroupColumn


class Fit(Section):
    """How the model is trained."""

    batch_size: PositiveInt | Literal["auto"] = 32
    """Images per step. auto: by a short probe, the largest power of two that fits into memory and is not slower per
    image."""
    stages: Annotated[list[Stage], Field(min_length=1)] = [Stage()]
    """Trained one after the other."""
    validation_split: Fraction = 0.15
    """Share of the images held out for validation, if the data has no validation part. Stratified."""
    test_split: Fraction = 0.15
    """Share of the images held out for the test, if the data has no test part. Stratified."""
    group: Group | None = None
    """Which images belong together (one patient, object or burst), and stay in one part and one fold: "folder", the
    first folder below the class, or {"column": NAME} of the manifest; null: images are independent."""
    class_weight: Literal["none", "balanced", "sqrt"] = "none"
    """balanced: n / (classes * n of the class), as in scikit-learn; multilabel: for each label, positives against
    negatives. sqrt: its square root."""
    sample_weight: str | None = None
    """The column of the manifest with the weight of each image in training; it is multiplied by the class weight."""
    seed: Seed = 0
    """The seed of the split, the initial weights, the order and the augmentation."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16", "auto"] = "float32"
    """Keras' dtype policy while training. auto: by a short probe, a mixed one if the CPU has instructions for
    it and a step is faster."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Momentum of the moving average of the weights, which is validated and used in their place; null: none."""
    flips: Literal["off", "auto", "on"] = "off"
    """Whether the trained model averages its answers over each image and its mirror image, which takes twice the time.
    auto: if that gains on the validation images, as `kerasimg run flips` decides. Early stopping and the choice of the
    best epoch do without."""
    distribute: Literal["off", "auto"] = "off"
    """Number of devices that share each batch. auto: all of the fastest kind that divide it, through Keras'
    DataParallel on JAX and MirroredStrategy on TensorFlow; on PyTorch one. off: one."""
    features: Literal["auto", "off", "cached", "fresh"] = "auto"
    """How the frozen part is computed. cached: once, and stored on disk; needs `views` or no augmentation.
    fresh: in every epoch, as an engine without gradients. off: as any other layer. auto: the cheapest that
    does not change the training."""
    views: PositiveInt | None = None
    """Augmented views of each image, drawn once, that take turns in the epochs; null: new ones in every epoch."""
    teacher: Teacher | None = None
    """A larger model to learn from; null: from the labels alone."""
    quantization_aware: bool = False
    """Whether kernels and values are rounded while training as an int8 export rounds them, so that the model learns to
    do with it. What is saved is not rounded."""
    callbacks: list[Annotated[Any, Named("callbacks")]] = []
    """Further Keras callbacks, as names or {"type": ...}; the same objects in every stage."""

    @model_validator(mode="after")
    def _splits_leave_something(self) -> Fit:
        if self.validation_split + self.test_split >= 1:
            raise ValueError("validation_split + test_split must be below 1, so that images are left to train on")
        return self


class Limits(Section):
    """Limits of a trial's model; a trial beyond them is not trained."""

    params: PositiveInt | None = None
    """Parameters of the whole model."""
    litert_bytes: PositiveInt | None = None
    """Bytes of the model as a LiteRT file in float32."""
    latency_ms: PositiveFloat | None = None
    """Milliseconds for one image with LiteRT on the machine that searches: the p50_ms of `kerasimg run measure`."""


USUAL_TRIALS, TIMED_TRIALS = 20, 10_000
"""Most trials of a search without `tune.max_trials`: without and with `tune.minutes`."""


class Tune(Section):
    """The hyperparameter search, in KerasTuner's terms."""

    tuner: SamplerName = "hyperband"
    """The search strategy. The first trial of each is the spec as written, with every default."""
    objective: str | Annotated[list[str], Field(min_length=1)] = "val_accuracy"
    """The metric to optimise: "loss" or the name of a metric of `compile`, after "val_" that of the validation part; of
    a trial the epoch counts that its last stage keeps. A list: the first decides, and the search writes the front, the
    specs that no other beats in all of them. After the first, also "latency_ms" and "bytes", of the model as a LiteRT
    file."""
    direction: Literal["min", "max", "auto"] = "auto"
    """Whether less or more is better; auto: as known for the metric; for other metrics it must be given. Of several
    objectives, the direction of the first."""
    max_trials: PositiveInt | None = None
    """Most trials; failed and infeasible ones count, and so does each promotion of hyperband. null: 20, or as many as
    there is time for if `minutes` is given."""
    minutes: PositiveFloat | None = None
    """Wall time of the whole search, with all that is needed before the first trial; null: no limit. The trial that
    is being trained when the time runs out counts with its epochs so far. A resumed search has the rest."""
    train_best: bool = False
    """Whether the best spec is trained at the end, within `minutes`; the run is in the folder of the search."""
    executions_per_trial: PositiveInt = 1
    """Trainings per trial, with consecutive seeds; their metrics are averaged, and each is stored."""
    max_epochs: PositiveInt | None = None
    """Most epochs of a trial; null: those of the stages."""
    stop: Literal["median", "halving"] | None = None
    """How random, grid and bayesian search stop a poor trial. median: once it is below the median of earlier trials at
    that epoch. halving: at a third and a ninth of its epochs, unless it is among the best third of the trials that got
    that far. null: never. hyperband has its own way."""
    limits: Limits = Limits()
    """Limits of a trial's model."""
    keep: NonNegativeInt = 1
    """Number of best trials whose weights are saved."""
    seed: Seed = 0
    """The seed of the search; trials are trained with `fit.seed`."""

    @model_validator(mode="after")
    def _stopped_one_way(self) -> Tune:
        if self.stop is not None and self.tuner == "hyperband":
            raise ValueError(f'stop: "{self.stop}" is for random, grid and bayesian; hyperband ends trials by itself')
        return self

    @property
    def objectives(self) -> tuple[str, ...]:
        """The figures to optimise, the first foremost."""
        return (self.objective,) if isinstance(self.objective, str) else tuple(self.objective)

    @property
    def most_trials(self) -> int:
        """Most trials, also where `max_trials` leaves it open."""
        if self.max_trials is not None:
            return self.max_trials
        return USUAL_TRIALS if self.minutes is None else TIMED_TRIALS


class Weights(Section):
    """Trained weights of exactly this model."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+(\.weights\.h5|\.pth)$")] | None = None
    """A file beside the spec; its layers in the order of the model's, with or without the head. In a `package`: a .pth
    file, whose arrays are read without executing anything."""
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] | None = None
    """The installed Python package that has the file; `sha256` must be given."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the file."""
    keras: str | None = None
    """Instead of a file: the model of keras.applications that has the same layers in the same order."""
    arguments: dict[str, float | int | bool] = {}
    """Arguments of its constructor: {"alpha": 1.0}."""
    classes: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.classes\.json$")] | None = None
    """A file beside the spec, the list of the names of the classes that the head knows."""

    @model_validator(mode="after")
    def _one_origin(self) -> Weights:
        if (self.file is None) is (self.keras is None):
            raise ValueError("exactly one of 'file' and 'keras' must be given")
        if self.package is not None and (self.sha256 is None or self.file is None or ".." in self.file):
            raise ValueError("a file of a package needs its 'sha256', and is inside of the package")
        if self.package is None and self.file is not None and ("/" in self.file or self.file.endswith(".pth")):
            raise ValueError("file: expected a .weights.h5 file beside the spec; a .pth file is read from a 'package'")
        return self


class Pretrained(Section):
    """The weights that `"weights": "imagenet"` loads for this spec, as a backbone and as a classifier."""

    imagenet: Weights | None = None
    """null: there are none."""


class Expect(Section):
    """Facts that `build` checks; it fails if they differ."""

    params: NonNegativeInt | None = None
    """Parameters of the whole model, as model.count_params() counts them."""
    output: list[int | None] | None = None
    """Shape of the output, null for the batch."""


KEYS = (
    "$schema",
    "kerasimg",
    "name",
    "about",
    "card",
    "extends",
    "set",
    "params",
    "variants",
    "blocks",
    "image",
    "task",
    "positive_class",
    "augment",
    "model",
    "features",
    "pretrained",
    "compile",
    "fit",
    "tune",
    "expect",
)
"""Every key of a spec, in the best order for reading."""

SECTIONS: dict[str, type[Section]] = {
    "card": Card,
    "image": Image,
    "compile": Compile,
    "fit": Fit,
    "tune": Tune,
    "pretrained": Pretrained,
    "expect": Expect,
}
