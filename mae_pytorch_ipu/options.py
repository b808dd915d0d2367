"""Options of the MAE scripts: one frozen dataclass per script, its groups inherited, flags named as in the document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from models import CLASSIFIERS, PRETRAINING
from run.option_values import Only
from run.options import CommonOptions, RunOptions, option

GENERATED = Only("with --generated_data", lambda given: given.generated_data)
FILES = Only("without --generated_data", lambda given: not given.generated_data)
SCALED = Only("without --lr", lambda given: given.lr is None)
WORKERS = Only("with loading processes", lambda given: given.num_workers != 0)
EVALUATION = Only("with --evaluate", lambda given: given.evaluate)
REMAP = Only("with --remap", lambda given: given.remap)
FINETUNE = Only("with --finetune", lambda given: bool(given.finetune))
ERASING = Only("with --reprob above 0", lambda given: given.reprob > 0)
MIXING = Only("with --mixup, --cutmix or --cutmix_minmax", lambda given: given.mixes)


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

    @property
    def precision(self) -> str:
        """Bits of compute.weights."""
        return "16.16" if self.half else "32.32"


@dataclass(frozen=True)
class DataOptions(CommonOptions):
    """Data."""

    data_path: str = option("./data/imagenet1k", "folder with train/ and validation/ (or val/)", only=FILES)
    generated_data: bool = option(False, "random images made on the fly instead of files")
    generated_steps: int = option(1, "host steps per epoch", minimum=1, only=GENERATED)
    mean: List[float] = option([0.485, 0.456, 0.406], "of the data's channels, from 0 to 1")
    std: List[float] = option([0.229, 0.224, 0.225], "of the data's channels, from 0 to 1", positive=True)
    num_workers: Optional[int] = option(None, "processes that load data; none takes the cores less one", minimum=0)
    async_type: str = option(
        "async",
        "how batches are put together: normal, ahead, or ahead in parts",
        choices=("normal", "async", "rebatch"),
    )
    rebatched_worker_size: int = option(
        128,
        "samples that a loading process puts together at a time",
        minimum=1,
        only=Only("with --async_type rebatch", lambda given: given.async_type == "rebatch"),
    )
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which the run stops", minimum=0, maximum=1, only=FILES
    )


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
    seed: int = option(0, "seed of everything random", minimum=0)
    weight_decay: float = option(0.05, "not on biases and LayerNorm", minimum=0)
    lr: Optional[float] = option(None, "peak learning rate; none takes blr × global batch / 256", minimum=0)
    blr: float = option(1e-3, "peak learning rate per 256 samples of the global batch", minimum=0, only=SCALED)
    min_lr: float = option(0.0, "learning rate at the end of the cosine", minimum=0)
    warmup_epochs: float = option(5, "epochs of linear warm-up from 0", minimum=0)
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


@dataclass(frozen=True)
class IpuOptions(CommonOptions):
    """IPU (kept and checked on a host, without effect on its results)."""

    ipus: Optional[int] = option(None, "IPUs of one pipeline; must be as many as the pipeline names", minimum=1)
    memory_proportion: List[float] = option([0.15], "share of memory for matmuls, one for all or one per IPU")
    executable_cache_dir: str = option("./cachedir", "folder of compiled executables; empty for none")
    compile_only: bool = option(False, "compile for the first batch, fill the cache and stop")


@dataclass(frozen=True)
class PretrainOptions(CheckpointOptions, ModelOptions, DataOptions, BatchOptions, TrainingOptions, IpuOptions):
    """Pretraining."""

    config: str = option("vit_base_pod16", "entry of the config file")
    model: str = option("mae_vit_base_patch16", "size and patch, which the flags above change", choices=PRETRAINING)
    decoder_embed_dim: Optional[int] = option(None, "width of the decoder; none leaves it to the model", minimum=1)
    decoder_depth: Optional[int] = option(None, "decoder layers; none leaves it to the model", minimum=1)
    decoder_num_heads: Optional[int] = option(None, "heads of the decoder; none leaves it to the model", minimum=1)
    gelu_type: str = option("erf", "the exact GELU, or its approximation by tanh", choices=("erf", "tanh"))
    mask_ratio: float = option(0.75, "share of the patches that the encoder does not see", positive=True, maximum=1)
    norm_pix_loss: bool = option(False, "targets are pixels normalised within their patch")
    crop_scale_min: float = option(
        0.2, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    warmup_epochs: float = option(40, "epochs of linear warm-up from 0", minimum=0)
    pipeline: List[int] = option(
        [3, 3, 3, 3, 2, 2, 2, 2],
        "layers on each IPU: of the encoder, then, from the first IPU on again, of the decoder",
    )
    rts: bool = option(False, "shard the optimizer's state over replicas")
    mask_on_host: Optional[bool] = option(
        None, "draw masks while loading and send them as matrices; none does so for IPUs only"
    )
    remap: Optional[bool] = option(None, "lay activations out anew between layers; none does so on IPUs only")
    remap_so: str = option("./remap/remap_ops.so", "library of the remap op", only=REMAP)

    def sizes(self) -> Dict[str, object]:
        """The same with what only pretraining's model has."""
        names = {"decoder_embed_dim": "decoder_width", "decoder_num_heads": "decoder_heads"}
        fields = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
        given = {names.get(name, name): getattr(self, name) for name in fields}
        own = {name: value for name, value in given.items() if value is not None}
        if self.mlp_dim is not None and self.decoder_embed_dim is not None:
            own["decoder_mlp_width"] = 4 * self.decoder_embed_dim
        target = {"mask_ratio": self.mask_ratio, "norm_pix_loss": self.norm_pix_loss, "gelu": self.gelu_type}
        return {**super().sizes(), **own, **target}


@dataclass(frozen=True)
class ClassifierOptions(ModelOptions):
    """Classifier."""

    model: str = option("vit_base_patch16", "size and patch, which the flags above change", choices=CLASSIFIERS)
    nb_classes: Optional[int] = option(None, "classes; none takes the number that the data has", minimum=1)
    eval_resize: str = option(
        "crop",
        "evaluation: crop = resize by 256/224, cut the centre; direct = resize",
        choices=("crop", "direct"),
        only=FILES,
    )


@dataclass(frozen=True)
class AugmentationOptions(CommonOptions):
    """Augmentation."""

    crop_scale_min: float = option(
        0.08, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    color_jitter: Optional[float] = option(
        None,
        "strength of jitter in brightness, contrast and saturation",
        minimum=0,
        only=Only("without --aa", lambda given: not given.aa),
    )
    aa: str = option("rand-m9-mstd0.5-inc1", "timm's description of RandAugment; empty for none", only=FILES)
    reprob: float = option(0.25, "probability of random erasing", minimum=0, maximum=1, only=FILES)
    remode: str = option("pixel", "what fills an erased box", choices=("const", "rand", "pixel"), only=ERASING)
    recount: int = option(1, "boxes erased at most", minimum=1, only=ERASING)
    smoothing: float = option(0.1, "share of the label that is spread over all classes", minimum=0, maximum=1)
    mixup: float = option(0.0, "Mixup's Beta parameter; 0 for none", minimum=0)
    cutmix: float = option(0.0, "CutMix's Beta parameter; 0 for none", minimum=0)
    cutmix_minmax: List[float] = option(
        [], "sides of CutMix's box as shares, instead of --cutmix", minimum=0, maximum=1
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


@dataclass(frozen=True)
class FinetuneOptions(
    CheckpointOptions, ClassifierOptions, DataOptions, AugmentationOptions, BatchOptions, TrainingOptions, IpuOptions
):
    """Fine-tuning."""

    config: str = option("vit_base_finetune", "entry of the config file")
    finetune: str = option("", "weights to start from: run folder, file or hub name; empty starts from random ones")
    global_pool: bool = option(True, "tell the class from the mean of the patches; --cls_token tells it from the token")
    drop_path: float = option(0.1, "stochastic depth of the last layer, rising from 0", minimum=0, maximum=1)
    layer_decay: float = option(
        0.75, "factor on the learning rate from layer to layer, from the head down", positive=True
    )
    clip_grad: float = option(0.0, "largest norm of the whole gradient; 0 for no limit", minimum=0)
    pipeline: List[int] = option([3, 3, 3, 3], "encoder layers on each IPU")
    rts: bool = option(True, "shard the optimizer's state over replicas")

    @property
    def decoded_minmax(self) -> Optional[Tuple[float, float]]:
        """Smallest and largest side of CutMix's box, None where --cutmix decides."""
        return (self.cutmix_minmax[0], self.cutmix_minmax[1]) if self.cutmix_minmax else None


IT_FOLLOWS = "it follows from the model, --input_size and --patch_size"
REFUSED = {
    "sequence_length": IT_FOLLOWS,
    "device": "PopTorch decides: the SDK's where it is installed, else the host (POPTORCH_HOST=1 forces the host)",
    "log": "the run folder's history.jsonl and TensorBoard files hold the log",
    "optimizer_step": "the learning rate is set before every step",
}
REFUSED_IN_PRETRAINING = {
    **REFUSED,
    "checkpoint": "--resume goes on from the newest intact checkpoint of the run folder",
    "finetune": "fine-tuning is main_finetune.py",
}
REFUSED_IN_FINETUNING = {
    **REFUSED,
    "start_epoch": "--resume knows where the run stopped",
    "eval": "validation is finetune_validate.py",
    "dist_eval": "evaluation is exact over any number of processes",
    "resplit": "it needs augmentation in splits, which this recipe has not",
    "mask_ratio": "masks belong to pretraining (main_pretrain.py)",
    "norm_pix_loss": "targets of pixels belong to pretraining (main_pretrain.py)",
}
