"""Options of the ViT scripts: one frozen dataclass per script, its groups inherited, flags named as in the document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

from ipu.program import PRECISIONS
from models.supervised import LOSSES
from run.errors import UsageError
from run.option_values import Only
from run.options import CommonOptions, RunOptions, option
from run.origin import keep_weights

SGD = Only("with --optimizer SGD", lambda given: given.optimizer == "SGD")
ADAPTIVE = Only("with --optimizer Adam, AdamW or LAMB", lambda given: given.optimizer != "SGD")
LAMB = Only("with --optimizer LAMB", lambda given: given.optimizer == "LAMB")
CIFAR10 = Only("with --dataset cifar10", lambda given: given.dataset == "cifar10")
GENERATED = Only("with --dataset generated", lambda given: given.dataset == "generated")
FILES = Only("with data that are read", lambda given: given.dataset != "generated")
PRETRAINED = Only("with --pretrained-checkpoint", lambda given: given.pretrained_checkpoint != "none")
A_RUN = Only("with a run folder", lambda given: (Path(given.pretrained_checkpoint) / "checkpoints").is_dir())
STEPS = Only("without --epochs", lambda given: not given.epochs)
WORKERS = Only("with loading processes", lambda given: given.dataloader_workers != 0)
MIXUP = Only("with --mixup", lambda given: given.mixup)
EVALUATION = Only("with --evaluate", lambda given: given.evaluate)


@dataclass(frozen=True)
class ModelOptions(CommonOptions):
    """Model."""

    pretrained_checkpoint: str = option(
        "none",
        "weights to start from: folder, file, run folder (its best) or hub name; none starts from random weights",
        aliases=("pretrained",),
    )
    image_size: int = option(224, "side of the square input", unit="pixels", minimum=1)
    num_labels: Optional[int] = option(None, "classes; none takes the number that the data has", minimum=1)
    precision: str = option("16.16", "bits of compute.weights", choices=PRECISIONS)


@dataclass(frozen=True)
class ModelSizeOptions(ModelOptions):
    """Size of the model."""

    model: str = option("vit_base_patch16_224", "size and patch, which the flags below change")
    hidden_size: Optional[int] = option(None, "width of the encoder", minimum=1)
    num_hidden_layers: Optional[int] = option(None, "encoder layers", minimum=1)
    num_attention_heads: Optional[int] = option(None, "attention heads", minimum=1)
    mlp_dim: Optional[int] = option(None, "width of the MLP's hidden layer", minimum=1)
    patches_size: Optional[int] = option(None, "side of a patch", unit="pixels", minimum=1)
    layer_norm_eps: float = option(1e-6, "epsilon of every LayerNorm", positive=True)
    new_head: bool = option(True, "a new classification head instead of the pretrained one", only=PRETRAINED)

    def sizes(self) -> Dict[str, object]:
        """Keyword arguments for `models.create_model` that the command line or the config gave."""
        given = {
            "width": self.hidden_size,
            "depth": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "mlp_width": self.mlp_dim,
            "patch_size": self.patches_size,
            "layer_norm_eps": self.layer_norm_eps,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DataOptions(CommonOptions):
    """Data."""

    dataset: str = option("cifar10", "kind of data", choices=("cifar10", "imagenet1k", "folder", "generated"))
    dataset_path: str = option("./data/cifar10", "folder of the data", only=FILES)
    download: bool = option(False, "fetch the archive into the folder if it is not there", only=CIFAR10)
    eval_resize: str = option(
        "crop",
        "evaluation: crop = resize by 256/224, cut the centre; direct = resize",
        choices=("crop", "direct"),
        only=FILES,
    )
    byteio: bool = option(False, "send uint8 images to the device and normalise them there")
    dataloader_workers: Optional[int] = option(
        None, "processes that load data; none takes the cores less one", minimum=0
    )
    iterations: int = option(1, "host steps per epoch", minimum=1, only=GENERATED)
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which the run stops", minimum=0, maximum=1, only=FILES
    )


@dataclass(frozen=True)
class AugmentationOptions(CommonOptions):
    """Augmentation."""

    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    crop_scale_min: float = option(
        0.05, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    extra_aug: Optional[str] = option(
        None, "imagenet_policy = AutoAugment's ImageNet policy", choices=("imagenet_policy",), only=FILES
    )
    rebatched_worker_size: Optional[int] = option(
        None, "samples that a loading process puts together at a time", minimum=1, only=WORKERS
    )
    synthetic_data: bool = option(False, "make random inputs on the device; measures speed, trains nothing")


@dataclass(frozen=True)
class BatchOptions(CommonOptions):
    """Batches."""

    micro_batch_size: int = option(1, "samples of one forward pass on one replica", minimum=1)
    device_iterations: int = option(1, "updates (validation: forward passes) per call of the device", minimum=1)


@dataclass(frozen=True)
class TrainingOptions(CommonOptions):
    """Training."""

    gradient_accumulation: int = option(1, "micro-batches of one replica per update", minimum=1)
    replication_factor: int = option(1, "replicas in all; several processes share them", minimum=1)
    training_steps: int = option(0, "host steps, each of device_iterations updates", minimum=0, only=STEPS)
    epochs: int = option(0, "passes over the data; above 0 it replaces training_steps", minimum=0)
    random_seed: int = option(42, "seed of everything random", minimum=0, maximum=2**64 - 1)
    reduction_type: str = option("mean", "how gradients are put together", choices=("mean", "sum"))
    hidden_dropout_prob: float = option(0.1, "dropout after embeddings, attention and MLP", minimum=0)
    attention_probs_dropout_prob: float = option(0.0, "dropout of attention probabilities", minimum=0)
    drop_path_rate: float = option(0.0, "stochastic depth of the last layer, rising from 0", minimum=0)


@dataclass(frozen=True)
class OptimizerOptions(CommonOptions):
    """Optimizer."""

    optimizer: str = option("SGD", "update rule", choices=("SGD", "Adam", "AdamW", "LAMB"))
    learning_rate: float = option(0.03, "peak learning rate", minimum=0)
    lr_schedule: str = option("cosine", "after warm-up", choices=("constant", "linear", "cosine"))
    warmup_steps: int = option(0, "host steps of linear warm-up", minimum=0)
    momentum: float = option(0.9, "share of the last update that goes on", minimum=0, only=SGD)
    weight_decay: float = option(0.0, "not on biases, LayerNorm, class token, positions", minimum=0)
    adam_betas: List[float] = option([0.9, 0.999], "decay of the first and second moment", minimum=0, only=ADAPTIVE)
    adam_eps: float = option(1e-8, "added to the root of the second moment", minimum=0, only=ADAPTIVE)
    bias_correction: bool = option(True, "correct the moments' start at zero", only=LAMB)
    max_norm: float = option(65535.0, "cap on the weight norm of matrices", minimum=0, only=LAMB)
    max_norm_bias: float = option(0.0, "the same for vectors; 0 leaves them a plain Adam step", minimum=0, only=LAMB)
    loss_scaling: float = option(1.0, "factor on the loss, undone before the update", positive=True)
    auto_loss_scaling: bool = option(False, "let the SDK find the loss scale (ALS)")
    accum_type: str = option("fp16", "gradient accumulators on an IPU", choices=("fp16", "fp32"))
    first_order_type: str = option("fp32", "momentum, Adam's m on an IPU", choices=("fp16", "fp32"))
    second_order_type: str = option("fp32", "Adam's v on an IPU", choices=("fp16", "fp32"), only=ADAPTIVE)
    use_combined_accum: bool = option(False, "one tensor for accumulation and velocity", only=SGD)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.adam_betas) != 2 or max(self.adam_betas) >= 1:
            raise UsageError("--adam-betas takes two numbers below 1, not %s" % self.adam_betas)


@dataclass(frozen=True)
class IpuOptions(CommonOptions):
    """IPU (kept and checked on a host, without effect on its results)."""

    layers_per_ipu: List[int] = option([3, 3, 3, 3], "encoder layers on each IPU of the pipeline")
    ipus_per_replica: Optional[int] = option(None, "IPUs of one pipeline; must be len(layers_per_ipu)", minimum=1)
    matmul_proportion: List[float] = option(
        [0.3], "share of memory for matmuls, one for all or one per IPU", positive=True, maximum=1
    )
    executable_cache_dir: str = option("", "folder of compiled executables; empty for none")
    half_partials: bool = option(True, "float16 partial sums")


@dataclass(frozen=True)
class IpuTrainingOptions(IpuOptions):
    """IPU training."""

    stochastic_rounding: bool = option(True, "round to float16 at random with the right mean")
    recompute_checkpoint_every_layer: bool = option(True, "keep each layer's output, recompute the rest")
    prefetch_depth: int = option(2, "batches prefetched to the device", minimum=1)
    enable_rts: bool = option(True, "shard the optimizer's state over replicas")
    optimizer_state_offchip: bool = option(False, "keep the optimizer's state in the host's memory")
    profile_dir: str = option("", "folder for PopVision reports; empty for none")


@dataclass(frozen=True)
class FinetuneOptions(
    RunOptions,
    ModelSizeOptions,
    DataOptions,
    AugmentationOptions,
    BatchOptions,
    TrainingOptions,
    OptimizerOptions,
    IpuTrainingOptions,
):
    """Checkpoints and evaluation."""

    output: str = option("output/{config}", "run folder", aliases=("checkpoint_output_dir",))
    resume: bool = option(False, "go on with the run in the run folder", aliases=("resume_training_from_checkpoint",))
    checkpoint_save_steps: int = option(100, "host steps between checkpoints; 0 saves only the last", minimum=0)
    keep_checkpoints: int = option(3, "checkpoints kept beside the best", minimum=1)
    eval_every: int = option(
        0, "host steps between evaluations; 0 evaluates only at the end", minimum=0, only=EVALUATION
    )
    evaluate: bool = option(True, "evaluate on the validation split at all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite:
            keep_weights(self.pretrained_checkpoint, Path(self.output))


@dataclass(frozen=True)
class PretrainOptions(FinetuneOptions):
    """Pretraining."""

    representation_size: Optional[int] = option(None, "width of a tanh layer before the head; none for none", minimum=1)
    loss: str = option("CELoss", "softmax or sigmoid cross-entropy", choices=LOSSES)
    mixup: bool = option(False, "mix each training image and its label with its neighbour's in the micro-batch")
    alpha: float = option(0.5, "both parameters of the Beta distribution", positive=True, only=MIXUP)
    recompute_mid_layers: List[int] = option(
        [], "encoder layers, from 0, that also keep what lies between attention and MLP", minimum=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixup and self.micro_batch_size == 1:
            raise UsageError("mixup mixes the images of a micro-batch, which has 1: raise it or give --mixup false")

    def sizes(self) -> Dict[str, object]:
        """The same with the parts that only pretraining's model has, and its initialisation."""
        own = {"representation_size": self.representation_size, "gelu_dropout": self.hidden_dropout_prob}
        return {**super().sizes(), **own, "init": "pretrain"}


@dataclass(frozen=True)
class ValidationOptions(ModelOptions, DataOptions, BatchOptions, IpuOptions):
    """Checkpoint."""

    checkpoint: str = option("best", "which one of a run folder: latest, best or a step", only=A_RUN)
    model: Optional[str] = option(None, "size and patch, for weights that do not say themselves")


REFUSED_IN_FINETUNING = {
    "mixup": "mixup belongs to pretraining (pretrain.py)",
    "alpha": "it is mixup's, which belongs to pretraining (pretrain.py)",
    "loss": "fine-tuning always uses the cross-entropy",
    "pretrain": "the script decides: finetune.py fine-tunes",
    "representation_size": "the representation layer belongs to pretraining (pretrain.py)",
    "recompute_mid_layers": "it belongs to pretraining (pretrain.py)",
}

REFUSED_IN_PRETRAINING = {"pretrain": "the script decides: pretrain.py pretrains"}


def refused_in_validation() -> Dict[str, str]:
    """Flags of the document that only training reads → why validation refuses them."""
    known = set(ValidationOptions.__dataclass_fields__)
    only_training = [name for name in FinetuneOptions.__dataclass_fields__ if name not in known]
    refused = dict.fromkeys([*only_training, *REFUSED_IN_FINETUNING], "it only matters in training")
    sizes = [name for name in ModelSizeOptions.__dataclass_fields__ if name not in known]
    refused.update(dict.fromkeys([*sizes, "pretrain"], "the checkpoint tells which model it holds"))
    return refused
