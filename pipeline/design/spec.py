"""What a run is: recipe and run specification, frozen and validated.

A `RunSpec` holds everything that can change a result; its digest is the identity of a cell. It crosses the
process boundary as JSON, and `records` come back the same way. No torch here: the parent half imports this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

RERUNS_FROM = 100
MAX_BATCH = 2**20
MAX_SKIPPED = 1_000_000
Device = Literal["cpu", "cuda"]
# modes of torch.compile that record CUDA graphs of their own
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
# strict: YAML's `true` is not a 1, and 2.5 is no count
Count = Annotated[int, Field(strict=True, ge=1, le=2**40)]
Natural = Annotated[int, Field(strict=True, ge=0, le=2**40)]
# each of them costs memory, a process or a thread, or time before anything can end it
Epochs = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
BatchSize = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)]
Workers = Annotated[int, Field(strict=True, ge=0, le=1024)]
Threads = Annotated[int, Field(strict=True, ge=1, le=1024)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=4096)]
# strict: `true` is not 1.0 and "1_0" no number; a negative zero would be another digest of the same recipe
Real = Annotated[float, Field(strict=True), AfterValidator(lambda value: value + 0.0)]
Positive = Annotated[Real, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0.0, lt=1.0)]
SafeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Frozen(BaseModel):
    """Base of all value objects: immutable, unknown fields refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ignored_types=(cached_property,))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copies without the cached digest, which would be stale under `update`."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy


def content_digest(value: Any) -> str:
    """SHA-256 (hex, first 32 digits) of the canonical JSON text of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Recipe(Frozen):
    """How one run trains. Every field is explicit, logged as `recipe.FIELD`, and part of the digest.

    Attributes:
        epochs: passes over the training part.
        max_train_samples, max_test_samples: the most images of a part; None for all.
        batch_size: images of a micro-batch; the effective batch is `batch_size * accumulation_steps`.
        accumulation_steps: micro-batches of an optimizer update.
        precision: the arithmetic of matrix products and convolutions.
        scaler_init_scale: the gradient scaler's first scale (fp16).
        scaler_growth_interval: updates without an overflow before the scale doubles (fp16).
        channels_last: whether weights and batches are laid out NHWC.
        compile: the mode of torch.compile.
        cuda_graph: whether the passes are recorded once and replayed.
        grad_checkpoint: whether activations are recomputed in the backward pass.
        fused_optimizer: whether an update is one kernel.
        deterministic: whether PyTorch is held to deterministic algorithms.
        num_threads: threads of PyTorch on the CPU.
        input_pipeline: where images are read from and prepared, see docs/input.md.
        pin_memory: whether host buffers are page-locked.
        non_blocking: whether the host goes on while a batch is copied.
        num_workers: worker processes of the pipeline `loader`.
        image_size: height and width that a model gets, pixels.
        interpolation: how images are resized.
        resize: how an image folder's oblong images become squares: `crop` resizes the shorter side and cuts out the
            middle, `squash` resizes both sides and keeps all that is seen.
        skip_unreadable: images of a folder that cannot be decoded and are left out; asked for as the most that may
            be, and in a plan their number, which is what `data_digest` was made without.
        augmentation: random changes of training images.
        normalization: whose mean and standard deviation are used.
        optimizer: the rule of an update.
        learning_rate: the peak rate, before `lr_scaling`.
        lr_scaling: how the rate follows the effective batch.
        lr_reference_batch: the effective batch, in images, that `learning_rate` is meant for.
        backbone_lr_scale, neck_lr_scale: factors on the rate of these layers.
        momentum, nesterov: of SGD.
        weight_decay: of the optimizer.
        clip_norm: the largest norm of an update's gradient; None for no clipping.
        label_smoothing: a fraction.
        schedule: the rate over the updates.
        schedule_gamma: the factor on the rate per epoch (`exponential`).
        warmup: the fraction of all updates in which the rate rises.
        pretrained: whether timm's weights are loaded.
        weights, weights_sha256: a file of weights, and what its content has to be.
        patch_size: of a vision transformer, pixels; None for the model's own.
        validation_fraction: the fraction of the training images that is held out.
        eval_every: epochs between evaluations on the held-out part.
        eval_batch_size: images of an evaluation's batch.
        warmup_windows: first updates that steady-state throughput leaves out.
    """

    # length
    epochs: Epochs = 1
    max_train_samples: Count | None = None
    max_test_samples: Count | None = None
    # batch
    batch_size: BatchSize = 128
    accumulation_steps: BatchSize = 1
    # execution
    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32"
    scaler_init_scale: Positive = 65536.0
    scaler_growth_interval: Count = 2000
    channels_last: bool = False
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    cuda_graph: bool = False
    grad_checkpoint: bool = False
    fused_optimizer: bool = False
    deterministic: bool = False
    num_threads: Threads = 1
    # input
    input_pipeline: Literal["loader", "gather", "device"] = "gather"
    pin_memory: bool = False
    non_blocking: bool = False
    num_workers: Workers = 2
    image_size: Annotated[Pixels, Field(ge=8)] = 32
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resize: Literal["crop", "squash"] = "crop"
    skip_unreadable: Annotated[Natural, Field(le=MAX_SKIPPED)] = 0
    augmentation: Literal["none", "crop_flip", "affine_flip"] = "none"
    normalization: Literal["dataset", "imagenet"] = "dataset"
    # optimisation
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    lr_reference_batch: Count = 128
    backbone_lr_scale: Positive = 1.0
    neck_lr_scale: Positive = 1.0
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    clip_norm: Positive | None = None
    label_smoothing: Fraction = 0.0
    schedule: Literal["constant", "linear", "cosine", "onecycle", "exponential"] = "constant"
    schedule_gamma: Annotated[Positive, Field(le=1)] = 0.975
    warmup: Fraction = 0.0
    # model
    pretrained: bool = False
    weights: str | None = None
    weights_sha256: str | None = None
    patch_size: Pixels | None = None
    # evaluation and measurement
    validation_fraction: Annotated[Real, Field(ge=0, le=0.9)] = 0.1
    eval_every: Epochs = 1
    eval_batch_size: BatchSize = 256
    warmup_windows: Natural = 3

    @property
    def effective_batch(self) -> int:
        """Samples per optimizer update (all windows but the last of an epoch)."""
        return self.batch_size * self.accumulation_steps

    @cached_property
    def digest(self) -> str:
        """Content digest over every field, but for those of `AS_BEFORE` that say what there was before them."""
        fields = self.model_dump(mode="json")
        return content_digest({name: value for name, value in fields.items() if not _is_as_before(name, value)})


# Fields that came later -> the value that means what every recipe meant before. It is no part of the digest, so that
# what was measured then stays known.
AS_BEFORE: Mapping[str, Any] = {"resize": "crop", "skip_unreadable": 0}


def _is_as_before(name: str, value: Any) -> bool:
    return name in AS_BEFORE and bool(value == AS_BEFORE[name])


class Probe(Frozen):
    """How a measured trial differs from a full run: it may end earlier, and it never reads the test set.

    It ends after a whole window always.

    Attributes:
        read_test: whether the test set is read; never.
        interval: end once the 95 % interval of steady-state images/s is narrower than this share of it (then the
            recipe's epochs are no limit; one of the maxima is needed).
        max_windows: optimizer updates at most.
        max_seconds: seconds of training at most (evaluation and set-up not counted).
        max_samples: training samples at most, rounded up to a whole window.
        target_accuracy: end at the first validation record that reaches it, a fraction.
        validate_epochs: whether the validation split is read after each epoch.
    """

    read_test: Literal[False] = False
    interval: Annotated[Positive, Field(lt=1)] | None = None
    max_windows: Count | None = None
    max_seconds: Positive | None = None
    max_samples: Count | None = None
    target_accuracy: Annotated[Positive, Field(le=1)] | None = None
    validate_epochs: bool = False

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.interval is not None and self.max_windows is None and self.max_seconds is None:
            raise ValueError("an interval together with max_windows or max_seconds")
        if self.target_accuracy is not None and not self.validate_epochs:
            raise ValueError("a target accuracy together with validate_epochs")
        return self


class TurnPlan(Frozen):
    """How a cell trains that takes turns with others: it stands still in between, and is never evaluated.

    Attributes:
        multiple: images of which each turn and each epoch has a whole multiple, a common multiple of the windows of
            all cells that take turns; what an epoch has beyond is left out.
    """

    multiple: Count


class RunSpec(Frozen):
    """One cell of a design in one replicate: all that can change its result, and nothing else.

    Attributes:
        model, dataset: names of the catalog.
        techniques: those that are on, as `NAME` or `NAME=VALUE`, in canonical order.
        seed: decides initial weights, order of samples and augmentation.
        repeat: tells apart deliberate repetitions of the same cell with the same seed (sentinel baselines); from
            `RERUNS_FROM` on it counts measurements that were made again because something spoiled the first.
        device: where it trains.
        data_digest: identity of the content of a data set that can change on disk (image folders); empty otherwise.
        recipe: how it trains, techniques applied.
        probe: how a trial of a tuning is shorter; None for a full run.
        nproc: processes that train data-parallel, each on a device of its own; `batch_size` is split over them.
        turns: how it takes turns with other cells; None for a run of its own.
    """

    model: str
    dataset: str
    techniques: tuple[str, ...] = ()
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    repeat: Natural = 0
    device: Device = "cpu"
    data_digest: str = ""
    recipe: Recipe = Recipe()
    probe: Probe | None = None
    nproc: Threads = 1
    turns: TurnPlan | None = None

    @cached_property
    def digest(self) -> str:
        """Identity of the cell: content digest over every field, the recipe's through its own digest."""
        head = (
            self.model,
            self.dataset,
            self.techniques,
            self.seed,
            self.repeat,
            self.device,
            self.data_digest,
        )
        measured = [] if self.probe is None else [self.probe.model_dump(mode="json")]
        parallel = [] if self.nproc == 1 else [{"nproc": self.nproc}]
        in_turn = [] if self.turns is None else [{"turns": self.turns.model_dump(mode="json")}]
        return content_digest([*head, self.recipe.digest, *measured, *parallel, *in_turn])

    @property
    def label(self) -> str:
        """Techniques joined by `+`, `baseline` for none; `ga4` stands for `ga=4`."""
        return "+".join(t.replace("=", "") for t in self.techniques) or "baseline"

    @property
    def name(self) -> str:
        """Run name of the contract: `MODEL/DATASET/TECHNIQUES/sSEED`; sentinels have their number behind it."""
        suffix = f"/r{self.repeat}" if 0 < self.repeat < RERUNS_FROM else ""
        return f"{self.model}/{self.dataset}/{self.label}/s{self.seed}{suffix}"
