"""Options of train.py: one frozen dataclass, its groups inherited, flags named as upstream has them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from run.errors import FALSE_WORDS, TRUE_WORDS, UsageError
from run.option_values import Only
from run.options import CommonOptions, RunOptions, option, parse
from run.origin import keep_weights

CONFIGS = Path(__file__).resolve().parent / "configs.yml"
MODELS = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14", "R50-ViT-B_16")
DATASETS = ("cifar10", "cifar100", "imagenet1K", "folder", "generated")
DATA_PATH = "dataset_path"  # upstream's default, which it does not read for CIFAR

CIFAR = Only("with --dataset cifar10 or cifar100", lambda given: given.dataset.startswith("cifar"))
GENERATED = Only("with --dataset generated", lambda given: given.dataset == "generated")
FILES = Only("with data that are read", lambda given: given.dataset != "generated")
PRETRAINED = Only("with pretrained weights", lambda given: given.pretrained_dir != "none")


@dataclass(frozen=True)
class ModelOptions(CommonOptions):
    """Model."""

    model_type: str = option("ViT-B_16", "size and patch, which the flags below change", choices=MODELS)
    img_size: int = option(384, "side of the square input", unit="pixels", minimum=1)
    num_classes: Optional[int] = option(None, "classes; none takes the number that the data has", minimum=1)
    pretrained_dir: str = option(
        "checkpoint/ViT-B_16.npz",
        "weights to start from: Google's .npz, a folder, a run folder or hub name; none starts from random weights",
    )
    internal_perf_measure: bool = option(
        False, "start from random weights if the pretrained file is missing", only=PRETRAINED
    )
    new_head: bool = option(True, "a new classification head instead of the pretrained one", only=PRETRAINED)
    hidden_size: Optional[int] = option(None, "width of the encoder", minimum=1)
    num_hidden_layers: Optional[int] = option(None, "encoder layers", minimum=1)
    num_attention_heads: Optional[int] = option(None, "attention heads", minimum=1)
    mlp_dim: Optional[int] = option(None, "width of the MLP's hidden layer", minimum=1)
    patches_size: Optional[int] = option(None, "side of a patch; of the ResNet's features in a hybrid", minimum=1)
    hidden_dropout_prob: Optional[float] = option(None, "dropout after positions and in the MLP; none: 0.1", minimum=0)
    attention_probs_dropout_prob: Optional[float] = option(None, "dropout in and after attention; none: 0", minimum=0)

    def sizes(self) -> Dict[str, object]:
        """Keyword arguments for `models.create_model` that the command line or the config gave."""
        given = {
            "width": self.hidden_size,
            "depth": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "mlp_width": self.mlp_dim,
            "patch_size": self.patches_size,
            "dropout": self.hidden_dropout_prob,
            "attention_dropout": self.attention_probs_dropout_prob,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DataOptions(CommonOptions):
    """Data."""

    dataset: str = option("cifar10", "kind of data; folder is any tree of class folders", choices=DATASETS)
    data_path: str = option(DATA_PATH, "folder of the data; CIFAR without it is in ./data", only=FILES)
    download: bool = option(True, "fetch CIFAR if it is not there", only=CIFAR)
    random_flip: bool = option(True, "flip training images left to right at random", only=FILES)
    crop_scale_min: float = option(
        0.05, "smallest share of the image's area in a random crop", positive=True, maximum=1, only=FILES
    )
    num_samples: int = option(1280, "images of each split", minimum=1, only=GENERATED)
    dataloader_workers: Optional[int] = option(
        None, "processes that load data for one card; none takes its share of the cores less one, 4 at most", minimum=0
    )
    bad_image_ratio: float = option(
        0.001, "share of unreadable images above which the run stops", minimum=0, maximum=1, only=FILES
    )

    @property
    def data_folder(self) -> str:
        """Where the data are."""
        return "./data" if self.dataset.startswith("cifar") and self.data_path == DATA_PATH else self.data_path


@dataclass(frozen=True)
class TrainingOptions(CommonOptions):
    """Training."""

    num_steps: int = option(10000, "optimizer steps of the whole run", minimum=1)
    train_batch_size: int = option(512, "images of one card in one optimizer step", minimum=1)
    gradient_accumulation_steps: int = option(1, "micro-batches that these images are cut into", minimum=1)
    global_batch_size: Optional[int] = option(
        None,
        "images of one optimizer step over all cards, however many there are: keeps the micro-batch and changes the "
        "accumulation; none: the cards times train_batch_size",
        minimum=1,
    )
    eval_batch_size: int = option(64, "images of one card in one evaluation step", minimum=1)
    eval_every: int = option(100, "optimizer steps between evaluations; 0 evaluates only at the end", minimum=0)
    seed: int = option(42, "seed of everything random", minimum=0, maximum=2**63 - 1)


@dataclass(frozen=True)
class OptimizerOptions(CommonOptions):
    """Optimizer."""

    optimizer: str = option("SGD", "SGD with momentum 0.9, or AdamW", choices=("SGD", "AdamW"))
    learning_rate: float = option(0.06, "peak learning rate", minimum=0)
    weight_decay: float = option(0.0, "not on biases, norms, class token, positions", minimum=0)
    decay_type: str = option("cosine", "after warm-up", choices=("cosine", "linear"))
    warmup_steps: int = option(500, "optimizer steps of linear warm-up", minimum=0)
    max_grad_norm: float = option(1.0, "gradients' global norm above which they are scaled down; 0: never", minimum=0)


@dataclass(frozen=True)
class DeviceOptions(CommonOptions):
    """Device."""

    device: str = option("auto", "auto takes an HPU, else a GPU, else the CPU", choices=("auto", "hpu", "cuda", "cpu"))
    mode: Optional[str] = option(
        None,
        "compile, eager or lazy (HPU only); none: on an HPU what its software does by default, elsewhere eager",
        choices=("compile", "eager", "lazy"),
    )
    autocast: bool = option(False, "arithmetic in bfloat16 where autocast allows it; weights stay float32")
    use_hpu: int = option(1, "upstream's: 0 is --device cpu", choices=(0, 1))
    run_lazy_mode: Optional[bool] = option(None, "upstream's: true is --mode lazy, false --mode eager")


@dataclass(frozen=True)
class LegacyOptions(CommonOptions):
    """Accepted for old scripts, without effect, with a warning."""

    local_rank: int = option(-1, "the launcher's variables say it")
    loss_scale: float = option(0.0, "a leftover of float16, in which nothing is computed here")
    hmp: bool = option(False, "the mixed precision before SynapseAI 1.12: give --autocast")
    hmp_bf16: str = option("", "its list of operations")
    hmp_fp32: str = option("", "its list of operations")
    hmp_opt_level: str = option("O2", "its level")
    hmp_verbose: bool = option(False, "its messages")


@dataclass(frozen=True)
class TrainOptions(
    RunOptions, ModelOptions, DataOptions, TrainingOptions, OptimizerOptions, DeviceOptions, LegacyOptions
):
    """Name, checkpoints and reports."""

    config: str = option("upstream", "entry of the config file")
    name: str = option(help="of the run, whose folder it is in --output_dir")
    output: str = option("output", "folder of the run folders", aliases=("output_dir",))
    resume_from: Optional[str] = option(None, "checkpoint to go on from; --resume PATH is the same")
    checkpoint_save_steps: int = option(
        0, "optimizer steps between checkpoints; 0 saves only with evaluations", minimum=0
    )
    keep_checkpoints: int = option(3, "checkpoints kept beside the best", minimum=1)
    log_every: int = option(10, "steps between reports of progress", minimum=1)
    throughput_warmup_steps: int = option(10, "steps that the measured speed leaves out", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in ("", "..") or Path(self.name).name != self.name:
            raise UsageError(f'--name "{self.name}" is no name of a folder: give one, --output-dir says where it is')
        if self.train_batch_size % self.gradient_accumulation_steps:
            raise UsageError(
                f"--train-batch-size {self.train_batch_size} can't be cut into {self.gradient_accumulation_steps} "
                "equal micro-batches: make it a multiple of --gradient-accumulation-steps"
            )
        if self.dataset == "generated" and self.num_classes is None:
            raise UsageError("--dataset generated has no classes of its own: give --num-classes")
        if not self.use_hpu and self.device not in ("auto", "cpu"):
            raise UsageError(f"--use-hpu 0 means the CPU and --device says {self.device}: give one of them")
        if self.run_lazy_mode is not None and self.mode not in (None, "lazy" if self.run_lazy_mode else "eager"):
            raise UsageError(f"--run-lazy-mode and --mode {self.mode} contradict each other: give one of them")
        if self.overwrite:
            keep_weights(self.pretrained_dir, self.run_folder, "--name or --output-dir")

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(self.output) / self.name

    def warnings(self) -> List[str]:
        """A sentence for each legacy flag that was given, and for a run that is too short for its warm-up."""
        defaults = {name: field.default for name, field in LegacyOptions.__dataclass_fields__.items()}
        given = [name for name in LegacyOptions.__annotations__ if getattr(self, name) != defaults[name]]
        reasons = {name: LegacyOptions.__dataclass_fields__[name].metadata["help"] for name in given}
        found = [f"warning: --{name} has no effect: {reason}" for name, reason in reasons.items()]
        if self.warmup_steps >= self.num_steps:
            steps = f"--warmup-steps {self.warmup_steps} is not below --num-steps {self.num_steps}"
            found.append(f"warning: {steps}: the learning rate rises to the end and does not decay")
        return found


REFUSED = {
    "cache_dataset": "upstream switches it off itself; the layout is checked in seconds without a cache",
    "process_per_node": "the launcher decides: torchrun --nproc-per-node, mpirun -np",
}


def parse_options(arguments: Sequence[str]) -> TrainOptions:
    """Options from the command line over configs.yml over the defaults.

    Raises:
        UsageError: unknown, contradictory or wrong.
    """
    return parse(
        TrainOptions,
        _resume_words(arguments),
        configs=CONFIGS,
        script="train.py",
        description="Fine-tune a ViT on CIFAR, ImageNet-1k or any class folders, on HPUs, GPUs or CPUs.",
        refused=REFUSED,
    )


def _resume_words(arguments: Sequence[str]) -> List[str]:
    """`--resume` alone goes on with the run folder's newest checkpoint; upstream's takes the path of one."""
    words = list(arguments)
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        following = value if equals else "".join(words[position + 1 : position + 2])
        is_path = following and not following.startswith("--") and following.lower() not in (*TRUE_WORDS, *FALSE_WORDS)
        if flag == "--resume" and is_path:
            words[position] = "--resume-from" + (equals + value if equals else "")
    return words
