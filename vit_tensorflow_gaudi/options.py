"""Options of train.py, with the document's names and defaults."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from command_line import Only, no_effect, option
from errors import UsageError

MODELS = ("ViT-B_16", "ViT-L_16", "ViT-B_32", "ViT-L_32")
SCHEDULES = ("linear", "exp", "steps", "constant", "WarmupCosine")
DEVICES = ("CPU", "HPU", "GPU")
# What a checkpoint can't be resumed without: another value would be another run.
RECIPE = (
    "optimizer", "weight_decay", "dtype", "batch_size", "lr_sched", "initial_lr", "final_lr", "warmup_steps",
    "steps_per_epoch", "model", "grad_accum_steps", "deterministic", "image_size", "num_classes", "variant", "dropout",
    "clip_norm", "hidden_size", "num_layers", "num_heads", "mlp_dim", "patch_size", "augmentation",
)  # fmt: skip

_WARMUP = Only("with --lr_sched WarmupCosine", lambda given: given.lr_sched == "WarmupCosine")
_FINAL = Only("with --lr_sched linear or exp", lambda given: given.lr_sched in ("linear", "exp"))
_GIVEN_DEVICE = "with --device "
_GPU = Only(_GIVEN_DEVICE + "GPU: on a CPU XLA is slower", lambda given: given.device in (None, "GPU"))
_HPU = Only(_GIVEN_DEVICE + "HPU", lambda given: given.device in (None, "HPU"))
_DISTRIBUTED = Only("with --distributed", lambda given: given.distributed)
_DECAYED = Only("with --optimizer adamw or lamb", lambda given: given.optimizer in ("adamw", "lamb"))
_RESUMED = Only(  # a checkpoint knows its own place
    "with a weight file as --resume_from_checkpoint_path",
    lambda given: Path(given.resume_from_checkpoint_path or "").suffix in (".npz", ".h5", ".hdf5"),
)
_NAMED = Only("with --weights", lambda given: given.weights != "none")
_FRESH = Only("without --resume_from_checkpoint_path", lambda given: not given.resume_from_checkpoint_path)


@dataclass(frozen=True)
class TrainOptions:
    """What train.py takes. A micro-step is one forward and backward pass over a global batch."""

    dataset: str = option("/data/tensorflow/imagenet/tf_records", "TFRecord root", aliases=("--dataset_dir",))
    train_subset: str = option("train/train", "training shards are DATASET/TRAIN_SUBSET-*")
    val_subset: str = option("validation/validation", "validation shards are DATASET/VAL_SUBSET-*")
    model: str = option("ViT-B_16", "variant", choices=MODELS)
    image_size: int = option(384, "side of the square input in pixels", minimum=1)
    num_classes: Optional[int] = option(None, "classes", minimum=1, shown="as many as the data has")
    weights: str = option(
        "imagenet21k",
        "start: none, a .npz or .h5 file, a run folder, or imagenet21k or imagenet21k+imagenet2012 (Google's)",
    )
    weights_path: Optional[str] = option(None, "cache of Google's weights", shown="~/.keras", only=_NAMED)
    pretrained_top: bool = option(False, "keep the head of --weights instead of a new one", only=_NAMED)
    variant: str = option(
        "google",
        "google: no pre_logits, head from zero, dropout after positions; vit_keras: the other way round",
        choices=("google", "vit_keras"),
    )
    hidden_size: Optional[int] = option(None, "width of the encoder", minimum=1, shown="the variant's")
    num_layers: Optional[int] = option(None, "encoder layers", minimum=1, shown="the variant's")
    num_heads: Optional[int] = option(None, "attention heads", minimum=1, shown="the variant's")
    mlp_dim: Optional[int] = option(None, "width of the MLP's hidden layer", minimum=1, shown="the variant's")
    patch_size: Optional[int] = option(None, "side of a patch in pixels", minimum=1, shown="the variant's")
    dropout: float = option(0.1, "probability", minimum=0)

    optimizer: str = option("sgd", "update rule", choices=("sgd", "adam", "rmsprop", "adamw", "lamb"))
    weight_decay: float = option(0.01, "on matrices, decoupled from the gradient", minimum=0, only=_DECAYED)
    clip_norm: Optional[float] = option(
        None, "cap on the norm of an update's averaged gradient, 0 for none", minimum=0, shown="1 with sgd, else 0"
    )
    dtype: str = option("fp32", "precision of compute", aliases=("-d",), choices=("fp32", "bf16"))
    batch_size: int = option(32, "images per micro-step, over all workers", minimum=1)
    grad_accum_steps: int = option(8, "micro-steps per update", minimum=1)
    lr_sched: str = option("WarmupCosine", "learning rate over the run", choices=SCHEDULES)
    initial_lr: float = option(0.06, "learning rate at the start, of WarmupCosine at its peak", minimum=0)
    final_lr: float = option(1e-5, "learning rate at the end", minimum=0, only=_FINAL)
    warmup_steps: int = option(4000, "micro-steps of linear warm-up", minimum=0, only=_WARMUP)
    epochs: int = option(10, "in all, those before a resume among them", minimum=1)
    steps_per_epoch: Optional[int] = option(None, "micro-steps", minimum=1, shown="one pass over the data")
    validation_steps: Optional[int] = option(
        None, "global batches per validation, 0 for no validation", minimum=0, shown="every image once"
    )
    augmentation: str = option(
        "inception",
        "of training images: inception = wide crops, flip, brightness, saturation; google = any crop, flip; none",
        choices=("inception", "google", "none"),
    )
    eval_resize: str = option(
        "crop",
        "validation: crop = resize the short side, cut the centre; squash = resize both",
        choices=("crop", "squash"),
    )

    resume_from_checkpoint_path: Optional[str] = option(None, "run folder or checkpoint to go on from, or weight file")
    resume_from_epoch: int = option(0, "first epoch after loading a weight file", minimum=0, only=_RESUMED)
    evaluate_checkpoint_path: Optional[str] = option(None, "only evaluate this run folder, checkpoint or weight file")
    output: Optional[str] = option(None, "run folder", shown="output/MODEL, numbered if that is taken")
    overwrite: bool = option(False, "remove an earlier run from the run folder", only=_FRESH)
    checkpoint_steps: int = option(0, "micro-steps between checkpoints, besides those after each epoch", minimum=0)
    keep_checkpoints: int = option(3, "newest checkpoints kept, besides the best", minimum=1)
    log_every: int = option(10, "updates between reports", minimum=1)
    save_summary_steps: int = option(0, "micro-steps between TensorBoard entries, 0 for one per epoch", minimum=0)
    profile: str = option("0", "micro-step, or first,last ones, to profile for TensorBoard; 0 for none")
    dump_config: Optional[str] = option(None, "JSON file that asks for a dump of tensors; turns dropout off")

    device: Optional[str] = option(None, "device", choices=DEVICES, shown="HPU if there is one, else GPU, else CPU")
    distributed: bool = option(False, "train with the processes that mpirun started")
    base_tf_server_port: int = option(7850, "port of the first worker on each host", minimum=1, only=_DISTRIBUTED)
    reduction: str = option(
        "auto",
        "sums over workers: mpi = one MPI all-reduce per update, strategy = tf.distribute; auto: mpi on a CPU",
        choices=("auto", "mpi", "strategy"),
        only=_DISTRIBUTED,
    )
    jit_compile: bool = option(False, "compile forward and backward pass with XLA", only=_GPU)
    deterministic: bool = option(False, "same bits in every run; needs --seed, turns augmentation off")
    seed: Optional[int] = option(None, "seed of everything random", minimum=0, shown="drawn and printed")
    recipe_cache: str = option("/tmp/vit_recipe_cache", 'folder of compiled graphs, "" for none', only=_HPU)
    clear_recipe_cache: bool = option(False, "remove what earlier runs of this software put there", only=_HPU)
    dry_run: bool = option(False, "stop after options and numbers of the run are printed and saved")
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        if self.deterministic and self.seed is None:
            raise UsageError("--deterministic needs --seed: give a number")
        if self.resume_from_checkpoint_path and self.evaluate_checkpoint_path:
            raise UsageError("--resume_from_checkpoint_path trains and --evaluate_checkpoint_path does not: give one")
        if self.resume_from_epoch and self.resume_from_epoch >= self.epochs:
            raise UsageError(f"--resume_from_epoch {self.resume_from_epoch} leaves nothing of --epochs {self.epochs}")
        if self.dry_run and self.overwrite:
            raise UsageError("--dry_run changes nothing and --overwrite empties the run folder: give one of them")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout {self.dropout} is no probability below 1")
        self.profile_window()
        self.dump()

    def check_device(self, device: str) -> None:
        """UsageError if a flag was given that has no effect on the device that was found."""
        there = replace(self, device=device)
        for field in fields(self):
            only = field.metadata["only"]
            if only in (_GPU, _HPU) and getattr(self, field.name) != field.default and not only.holds(there):
                raise no_effect(field.name, only.where)

    @property
    def clip(self) -> float:
        """Cap on the gradient's norm, 0 for none."""
        return self.clip_norm if self.clip_norm is not None else float(self.optimizer == "sgd")

    @property
    def augment(self) -> bool:
        """Whether training images are augmented."""
        return self.augmentation != "none" and not self.deterministic

    def profile_window(self) -> Optional[Tuple[int, int]]:
        """First and last micro-step to profile, counted from 1 over the run; None for none."""
        match = re.fullmatch(r"(\d+)(?:,(\d+))?", self.profile)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UsageError(f"--profile {self.profile} is neither a micro-step nor first,last ones")
        first, last = int(match[1]), int(match[2] or match[1])
        return (first, last) if first else None

    def dump(self) -> Dict[str, Any]:
        """Content of --dump_config: arguments of TensorFlow's tensor dump; empty without."""
        if not self.dump_config:
            return {}
        known = {"dump_root", "tensor_debug_mode", "circular_buffer_size", "op_regex", "output_regex"}
        try:
            content = json.loads(Path(self.dump_config).read_text(encoding="utf-8"))
            wrong = sorted(set(content) - known)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"--dump_config {self.dump_config} can't be read as JSON ({error}): check it") from error
        if wrong or "dump_root" not in content:
            raise UsageError(f"--dump_config {self.dump_config} takes {', '.join(sorted(known))}, dump_root always")
        if content.pop("output_regex", ".*") not in (None, "", ".*"):
            raise UsageError("output_regex needs Habana's own dump: leave it out and choose operators by op_regex")
        return content

    def sizes(self) -> Dict[str, Any]:
        """Fields of models.ViTConfig that differ from the variant's."""
        given = {
            "width": self.hidden_size,
            "depth": self.num_layers,
            "heads": self.num_heads,
            "mlp_width": self.mlp_dim,
            "patch_size": self.patch_size,
        }
        google = self.variant == "google"
        return {
            **{name: value for name, value in given.items() if value is not None},
            "image_size": self.image_size,
            "dropout": 0.0 if self.dump_config else self.dropout,
            "representation": not google and self.weights == "imagenet21k",
            "embedding_dropout": google,
            "zero_head": google,
        }


def table(options: TrainOptions) -> str:
    """Names and values, a line each."""
    values = asdict(options)
    width = max(map(len, values))
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in values.items())
