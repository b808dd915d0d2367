"""Groups of options that the MAE scripts share; flags are named as in the document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from models import CLASSIFIERS
from preparation import EVAL_RESIZES
from run.errors import UsageError
from run.option_values import Only
from run.options import CommonOptions, RunOptions, option

GENERATED = Only("with --generated_data", lambda given: given.generated_data)
FILES = Only("without --generated_data", lambda given: not given.generated_data)
SCALED = Only("without --lr", lambda given: given.lr is None)
EVALUATION = Only("with --evaluate", lambda given: given.evaluate)
REBATCHED = Only("with --async_type rebatch", lambda given: given.async_type == "rebatch")
ERASING = Only("with --reprob above 0", lambda given: given.reprob > 0)
MIXING = Only("with --mixup, --cutmix or --cutmix_minmax", lambda given: given.mixes)
BOTH_MIXINGS = Only("with --mixup and --cutmix or --cutmix_minmax", lambda given: given.mixup > 0 and given.cuts)


@dataclass(frozen=True)
class ModelOptions(CommonOptions):
    """Model."""

    input_size: int = option(224, "side of the square input", unit="pixels", minimum=1)
    embed_dim: Optional[int] = option(None, "width of the encoder; none leaves it to the model", minimum=1)
    depth: Optional[int] = option(None, "encoder layers; none leaves it to the model", minimum=1)
    num_heads: Optional[int] = option(None, "attention heads; none leaves it to the model", minimum=1)
    mlp_dim: Optional[int] = option(None, "width of the MLP's hidden layer; none leaves it to the model", minimum=1)
    patch_size: Optional[int] = option(None, "side of a patch; none leaves it to the model", unit="pixels", minimum=1)
    half: bool = option(False, "float16 arithmetic and weights on an IPU, bfloat16 arithmetic on a host")

    def sizes(self) -> Dict[str, object]:
        """Keyword arguments for `models.create_model` that the command line or the config gave."""
        names = {"embed_dim": "width", "num_heads": "heads", "mlp_dim": "mlp_width"}
        fields = ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size")
        given = {names.get(name, name): getattr(self, name) for name in fields}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DataOptions(CommonOptions):
    """Data."""

    data_path: str = option("./data/imagenet1k", "folder with train/ and validation/ (or val/)", only=FILES)
    generated_data: bool = option(False, "random images made on the fly instead of files")
    generated_steps: int = option(1, "host steps per epoch", minimum=1, only=GENERATED)
    num_workers: Optional[int] = option(None, "processes that load data; none takes the cores less one", minimum=0)
    async_type: str = option("async", "how batches are put together: normal, or ahead", choices=("normal", "async"))
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which the run stops", minimum=0, maximum=1, only=FILES
    )


@dataclass(frozen=True)
class TrainingDataOptions(DataOptions):
    """Training data."""

    mean: List[float] = option([0.485, 0.456, 0.406], "of the data's channels, from 0 to 1")
    std: List[float] = option([0.229, 0.224, 0.225], "of the data's channels, from 0 to 1", positive=True)
    crop_scale_min: float = option(
        0.08, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    async_type: str = option(
        "async",
        "how batches are put together: normal, ahead, or ahead in parts",
        choices=("normal", "async", "rebatch"),
    )
    rebatched_worker_size: int = option(
        128, "samples that a loading process puts together at a time", minimum=1, only=REBATCHED
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise UsageError("--%s takes 3 values, one for each channel: give as many" % name)


@dataclass(frozen=True)
class BatchOptions(CommonOptions):
    """Batches."""

    batch_size: int = option(1, "samples of one forward pass on one replica", minimum=1)
    device_iterations: int = option(1, "updates (validation: forward passes) per call of the device", minimum=1)


@dataclass(frozen=True)
class TrainingOptions(CommonOptions):
    """Training."""

    gradient_accumulation_count: int = option(128, "micro-batches of one replica per update", minimum=1)
    replica: int = option(1, "replicas in all; several processes share them", minimum=1)
    epochs: int = option(1, "passes over the data", minimum=1)
    seed: int = option(0, "seed of everything random", minimum=0, maximum=2**64 - 1)
    weight_decay: float = option(0.05, "not on biases and LayerNorm", minimum=0)
    lr: Optional[float] = option(None, "peak learning rate; none takes blr × global batch / 256", minimum=0)
    blr: float = option(1e-3, "peak learning rate per 256 samples of the global batch", minimum=0, only=SCALED)
    min_lr: float = option(0.0, "learning rate at the end of the cosine", minimum=0)
    warmup_epochs: float = option(5, "epochs of linear warm-up from 0", minimum=0)


@dataclass(frozen=True)
class LossScaleOptions(CommonOptions):
    """Loss scale."""

    loss_scale: float = option(128.0, "factor on the loss, undone before the update", positive=True)
    use_als: bool = option(False, "let the SDK find the loss scale (ALS)")


@dataclass(frozen=True)
class CheckpointOptions(RunOptions):
    """Checkpoints and evaluation."""

    log_every: int = option(10, "steps between reports of progress", minimum=1, aliases=("print_freq",))
    saveckp_freq: int = option(10, "epochs between checkpoints; 0 saves only the last", minimum=0)
    keep_checkpoints: int = option(3, "checkpoints kept beside the best", minimum=1)
    evaluate: bool = option(True, "evaluate on the validation split at all")
    eval_freq: int = option(0, "epochs between evaluations; 0 evaluates only at the end", minimum=0, only=EVALUATION)
    compile_only: bool = option(False, "compile for the first batch, fill the cache and stop")


@dataclass(frozen=True)
class IpuOptions(CommonOptions):
    """IPU (kept and checked on a host, without effect on its results)."""

    pipeline: List[int] = option(
        [], "encoder layers on each IPU; empty spreads them evenly over --ipus, or 4", minimum=0
    )
    ipus: Optional[int] = option(None, "IPUs of one pipeline; must be as many as the pipeline names", minimum=1)
    memory_proportion: List[float] = option(
        [0.15], "share of memory for matmuls, one for all or one per IPU", positive=True, maximum=1
    )
    executable_cache_dir: str = option("./cachedir", "folder of compiled executables; empty for none")


@dataclass(frozen=True)
class ClassifierOptions(ModelOptions):
    """Classifier."""

    model: str = option("vit_base_patch16", "size and patch, which the flags above change", choices=CLASSIFIERS)
    gelu_type: Optional[str] = option(
        None, "the exact GELU, or its approximation by tanh; none: the one of the weights", choices=("erf", "tanh")
    )
    nb_classes: Optional[int] = option(None, "classes; none takes the number that the data has", minimum=1)
    cls_token: bool = option(False, "tell the class from the class token")
    global_pool: bool = option(
        True,
        "tell the class from the mean of the patches, else from the class token",
        only=Only("without --cls_token", lambda given: not given.cls_token),
    )
    eval_resize: str = option(
        "crop",
        "evaluation: crop = resize by 256/224, cut the centre; direct = resize",
        choices=EVAL_RESIZES,
        only=Only("without --generated_data", lambda given: not given.generated_data),
    )

    @property
    def pools(self) -> bool:
        """Whether the class is told from the mean of the patches."""
        return self.global_pool and not self.cls_token


@dataclass(frozen=True)
class AugmentationOptions(CommonOptions):
    """Augmentation."""

    color_jitter: Optional[float] = option(
        None,
        "strength of jitter in brightness, contrast and saturation",
        minimum=0,
        only=Only("without --aa or --generated_data", lambda given: not given.aa and not given.generated_data),
    )
    aa: str = option("rand-m9-mstd0.5-inc1", "timm's description of RandAugment; empty for none", only=FILES)
    reprob: float = option(0.25, "probability of random erasing", minimum=0, maximum=1, only=FILES)
    remode: str = option("pixel", "what fills an erased box", choices=("const", "rand", "pixel"), only=ERASING)
    recount: int = option(1, "boxes erased at most", minimum=1, only=ERASING)
    smoothing: float = option(0.1, "share of the label that is spread over all classes", minimum=0, maximum=1)
    mixup: float = option(0.0, "Mixup's Beta parameter; 0 for none", minimum=0)
    cutmix: float = option(0.0, "CutMix's Beta parameter; 0 for none", minimum=0)
    cutmix_minmax: List[float] = option(
        [], "smallest and largest side of CutMix's box as shares, instead of --cutmix", minimum=0, maximum=1
    )
    mixup_prob: float = option(1.0, "probability that samples are mixed", minimum=0, maximum=1, only=MIXING)
    mixup_switch_prob: float = option(0.5, "of CutMix where both are on", minimum=0, maximum=1, only=BOTH_MIXINGS)
    mixup_mode: str = option(
        "batch", "one draw for a micro-batch, a pair or a sample", choices=("batch", "pair", "elem"), only=MIXING
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = self.cutmix_minmax
        if sides and (len(sides) != 2 or sides[0] > sides[1]):
            raise UsageError("--cutmix_minmax is %s: give the smallest side and then the largest" % sides)

    @property
    def cuts(self) -> bool:
        """Whether CutMix is on."""
        return self.cutmix > 0 or bool(self.cutmix_minmax)

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed."""
        return self.mixup > 0 or self.cuts

    @property
    def box_sides(self) -> Optional[Tuple[float, float]]:
        """Smallest and largest side of CutMix's box as shares, None where --cutmix decides."""
        return (self.cutmix_minmax[0], self.cutmix_minmax[1]) if self.cutmix_minmax else None
