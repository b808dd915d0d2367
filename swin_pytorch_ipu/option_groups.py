"""Options that the Swin scripts share, by group; names are the last parts of the document's keys, in lower case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from models import SIZES
from run.errors import UsageError
from run.option_values import Only
from run.options import CommonOptions, RunOptions, option

PRECISIONS = {"32.32": "32.32", "16.16": "16.16", "mixed": "16.32"}  # → what ipu.program calls it

FILES = Only("without --generated-data", lambda given: not given.generated_data)
GENERATED = Only("with --generated-data", lambda given: given.generated_data)
EVALUATION = Only("with --evaluate", lambda given: given.evaluate)
EMA = Only("with --ema-decay", lambda given: given.ema_decay > 0)
ADAMW = Only("with --optimizer adamw", lambda given: given.optimizer == "adamw")
SGD = Only("with --optimizer sgd", lambda given: given.optimizer == "sgd")
COSINE = Only("with --lr-scheduler cosine", lambda given: given.lr_scheduler == "cosine")
STEPS = Only("with --lr-scheduler step", lambda given: given.lr_scheduler == "step")
ERASING = Only("with --reprob above 0", lambda given: given.reprob > 0)
MIXING = Only("with --mixup, --cutmix or --cutmix-minmax", lambda given: given.mixes)
REMAP = Only("with --remap", lambda given: given.remap is not False)
PRETRAINED = Only("with --pretrained-model", lambda given: bool(given.pretrained_model))


@dataclass(frozen=True)
class ModelOptions(CommonOptions):
    """Model."""

    model: str = option(
        "swin_tiny_patch4_window7_224", "sizes, which the flags below change", choices=tuple(SIZES), aliases=("name",)
    )
    img_size: List[int] = option([224], "side of a square input, or height and width", unit="pixels", minimum=1)
    num_classes: Optional[int] = option(None, "classes; none takes the number that the data has", minimum=1)
    embed_dim: Optional[int] = option(None, "width of the first stage; none leaves it to the model", minimum=1)
    depths: List[int] = option([], "blocks of each stage; none leaves them to the model", minimum=1)
    num_heads: List[int] = option([], "attention heads of each stage; none leaves them to the model", minimum=1)
    window_size: List[int] = option([], "side of a window, or height and width; none leaves it to the model", minimum=1)
    patch_size: int = option(4, "side of a patch", unit="pixels", minimum=1)
    mlp_ratio: float = option(4.0, "width of the MLP over that of its stage", positive=True)
    qkv_bias: bool = option(True, "biases of queries, keys and values")
    qk_scale: Optional[float] = option(None, "factor of query-key products; none takes 1/√(width of a head)")
    ape: bool = option(False, "add a learned position to each patch")
    patch_norm: bool = option(True, "LayerNorm behind the patch embedding")
    precision: str = option("32.32", "bits of compute.weights, or mixed", choices=tuple(PRECISIONS))

    @property
    def image_size(self) -> Tuple[int, int]:
        """Height and width of the input in pixels; UsageError unless one or two numbers were given."""
        return _pair(self.img_size, "img_size")

    def sizes(self) -> Dict[str, Any]:
        """Keyword arguments for `models.create_model`."""
        made: Dict[str, Any] = {"image_size": self.image_size, "patch_size": self.patch_size}
        made.update(mlp_ratio=self.mlp_ratio, qkv_bias=self.qkv_bias, qk_scale=self.qk_scale)
        made.update(absolute_positions=self.ape, patch_norm=self.patch_norm)
        if self.embed_dim is not None:
            made["embed_dim"] = self.embed_dim
        if self.window_size:
            made["window_size"] = _pair(self.window_size, "window_size")
        given = {"depths": self.depths, "num_heads": self.num_heads}
        return {**made, **{name: tuple(values) for name, values in given.items() if values}}


@dataclass(frozen=True)
class DataOptions(CommonOptions):
    """Data."""

    data_path: str = option("./data/imagenet1k", "folder of the data; it need not have what isn't read", only=FILES)
    data_format: str = option(
        "auto",
        "class folders, train.zip and val.zip, or what dataset.pack packed; auto takes what is there",
        choices=("auto", "folders", "zip", "packed"),
        only=FILES,
    )
    generated_data: bool = option(False, "random images made on the fly instead of files")
    generated_steps: int = option(1, "host steps per epoch", minimum=1, only=GENERATED)
    crop: bool = option(
        True, "evaluate on the centre, after a resize by 256/224; --crop false resizes to the size", only=FILES
    )
    num_workers: Optional[int] = option(None, "processes that load data; none takes the cores less one", minimum=0)
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which the run stops", minimum=0, maximum=1, only=FILES
    )

    @property
    def eval_resize(self) -> str:
        """How evaluation prepares images, in the terms of `preparation`."""
        return "crop" if self.crop else "direct"


@dataclass(frozen=True)
class BatchOptions(CommonOptions):
    """Batches."""

    batch_size: int = option(1, "samples of one forward pass on one replica (micro-batch)", minimum=1)
    device_iterations: int = option(1, "updates (validation: forward passes) per call of the device", minimum=1)


@dataclass(frozen=True)
class AugmentationOptions(CommonOptions):
    """Augmentation."""

    crop_scale_min: float = option(
        0.08, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    color_jitter: float = option(
        0.4,
        "strength of jitter in brightness, contrast and saturation",
        minimum=0,
        only=Only("without --auto-augment", lambda given: not given.auto_augment),
    )
    auto_augment: str = option(
        "rand-m9-mstd0.5-inc1", "timm's description of RandAugment; empty for none", aliases=("aa",), only=FILES
    )
    reprob: float = option(0.25, "probability of random erasing", minimum=0, maximum=1, only=FILES)
    remode: str = option("pixel", "what fills an erased box", choices=("const", "rand", "pixel"), only=ERASING)
    recount: int = option(1, "boxes erased at most", minimum=1, only=ERASING)
    label_smoothing: float = option(0.1, "share of the label spread over all classes", minimum=0, maximum=1)
    mixup: float = option(0.8, "Mixup's Beta parameter; 0 for none", minimum=0)
    cutmix: float = option(1.0, "CutMix's Beta parameter; 0 for none", minimum=0)
    cutmix_minmax: List[float] = option(
        [], "smallest and largest side of CutMix's box as shares, instead of --cutmix", minimum=0, maximum=1
    )
    mixup_prob: float = option(1.0, "probability that samples are mixed", minimum=0, maximum=1, only=MIXING)
    mixup_switch_prob: float = option(0.5, "of CutMix where both are on", minimum=0, maximum=1, only=MIXING)
    mixup_mode: str = option(
        "batch", "one draw for a micro-batch, a pair or a sample", choices=("batch", "pair", "elem"), only=MIXING
    )

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed."""
        return self.mixup > 0 or self.cutmix > 0 or bool(self.cutmix_minmax)

    @property
    def box_sides(self) -> Optional[Tuple[float, float]]:
        """Smallest and largest side of CutMix's box; None where --cutmix decides. UsageError for other than two."""
        if not self.cutmix_minmax:
            return None
        if len(self.cutmix_minmax) != 2 or self.cutmix_minmax[0] > self.cutmix_minmax[1]:
            raise UsageError("--cutmix-minmax takes two numbers, the smaller one first, such as 0.2 0.8")
        return self.cutmix_minmax[0], self.cutmix_minmax[1]


@dataclass(frozen=True)
class TrainingOptions(CommonOptions):
    """Training."""

    pretrained_model: str = option(
        "", "weights to start from: file, run folder (its best) or hub name; empty for random ones"
    )
    new_head: Optional[bool] = option(
        None, "start with a fresh head; none does so where the file's classes are others", only=PRETRAINED
    )
    epochs: int = option(300, "passes over the data", minimum=1)
    training_steps: int = option(0, "host steps after which the run ends before its epochs do; 0 for none", minimum=0)
    gradient_accumulation_steps: int = option(8, "micro-batches of a replica per update", minimum=1, aliases=("ga",))
    replicas: int = option(1, "replicas in all; several processes share them", minimum=1, aliases=("num_localreplica",))
    seed: int = option(0, "seed of everything random", minimum=0, maximum=2**64 - 1)
    drop_path_rate: float = option(0.1, "stochastic depth of the last block, rising from 0", minimum=0, maximum=1)
    drop_rate: float = option(0.0, "dropout of activations", minimum=0, maximum=1)
    attn_drop_rate: float = option(0.0, "dropout of attention weights", minimum=0, maximum=1)
    use_checkpoint: bool = option(False, "recompute each block going back instead of keeping its inside")
    ema_decay: float = option(
        0.0, "decay per update of an exponential moving average of the weights; 0 for none", minimum=0, maximum=1
    )
    ema_every: int = option(1, "host steps from one average to the next", minimum=1, only=EMA)
    ema_evaluate: bool = option(False, "evaluate the averaged weights instead of the last ones", only=EMA)


@dataclass(frozen=True)
class OptimizerOptions(CommonOptions):
    """Optimizer."""

    optimizer: str = option("adamw", "update rule", choices=("adamw", "sgd"))
    base_lr: float = option(5e-4, "peak learning rate per 1,024 samples of the global batch", minimum=0)
    warmup_lr: float = option(5e-6, "learning rate at the start, per 1,024 samples", minimum=0)
    min_lr: float = option(5e-6, "learning rate at the end of the cosine, per 1,024 samples", minimum=0, only=COSINE)
    warmup_epochs: float = option(20, "epochs of linear warm-up", minimum=0)
    lr_scheduler: str = option("cosine", "after warm-up", choices=("cosine", "linear", "step"))
    lr_legacy: bool = option(False, "the cosine as if there were no warm-up: a fall at its end", only=COSINE)
    decay_epochs: float = option(30, "epochs from one step down to the next", positive=True, only=STEPS)
    decay_rate: float = option(0.1, "factor of each step down", positive=True, only=STEPS)
    weight_decay: float = option(0.05, "not on vectors and tables of relative positions", minimum=0)
    betas: List[float] = option([0.9, 0.999], "decay of the first and second moment", minimum=0, only=ADAMW)
    eps: float = option(1e-8, "added to the root of the second moment", minimum=0, only=ADAMW)
    momentum: float = option(0.9, "share of the last update that goes on", minimum=0, only=SGD)
    clip_grad: float = option(5.0, "largest norm of the whole gradient; 0 for no limit", minimum=0, only=ADAMW)
    loss_scaling: float = option(128.0, "factor on the loss, undone before the update", positive=True)
    accum_type: Optional[str] = option(
        None, "gradient accumulators on an IPU; none is fp16 with --precision 16.16", choices=("fp16", "fp32")
    )
    first_order_type: Optional[str] = option(
        None, "momentum, Adam's m on an IPU; none is fp16 with --precision 16.16", choices=("fp16", "fp32")
    )
    second_order_type: str = option("fp32", "Adam's v on an IPU", choices=("fp16", "fp32"), only=ADAMW)


@dataclass(frozen=True)
class CheckpointOptions(RunOptions):
    """Checkpoints and evaluation."""

    log_every: int = option(10, "steps between reports of progress", minimum=1, aliases=("print_freq",))
    save_freq: float = option(1, "epochs between checkpoints; 0 saves only the last", minimum=0)
    keep_checkpoints: int = option(3, "checkpoints kept beside the best", minimum=1)
    evaluate: bool = option(True, "evaluate on the validation split at all")
    eval_freq: float = option(1, "epochs between evaluations; 0 evaluates only at the end", minimum=0, only=EVALUATION)


@dataclass(frozen=True)
class IpuOptions(CommonOptions):
    """IPU (kept and checked on a host, without effect on its results)."""

    layers_per_ipu: List[int] = option([3, 4, 3, 2], "blocks on each IPU of the pipeline", minimum=0)
    mapping_for_21k: bool = option(False, "the last IPU for a head of 21,841 classes; its blocks may be 0")
    amp: List[float] = option(
        [0.12],
        "share of memory for matmuls, one for all or one per IPU",
        positive=True,
        maximum=1,
        aliases=("available_memory_proportion",),
    )
    executable_cache_dir: str = option("./cachedir", "folder of compiled executables; empty for none")


@dataclass(frozen=True)
class IpuTrainingOptions(IpuOptions):
    """IPU training."""

    rts: bool = option(False, "shard the optimizer's state over replicas")
    remap: Optional[bool] = option(None, "lay activations out anew between layers; none does so on IPUs only")
    remap_so: str = option("../remap_custom_op", "library of the remap op, or the folder of its sources", only=REMAP)
    compile_only: bool = option(False, "compile for the first batch, fill the cache and stop")


def _pair(values: List[int], name: str) -> Tuple[int, int]:
    if len(values) not in (1, 2):
        raise UsageError("%s takes one number, or height and width, not %s" % (name, values))
    return values[0], values[-1]
