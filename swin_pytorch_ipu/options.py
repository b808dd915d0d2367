"""Options of the Swin scripts: one frozen dataclass per script, its groups inherited."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Union

from option_groups import (
    AugmentationOptions,
    BatchOptions,
    CheckpointOptions,
    DataOptions,
    IpuOptions,
    IpuTrainingOptions,
    ModelOptions,
    OptimizerOptions,
    TrainingOptions,
)
from run.errors import UsageError
from run.option_values import Only, fields_of
from run.options import option, parse
from run.origin import keep_weights

CONFIGS = Path(__file__).resolve().parent / "configs.yml"
TRAINING, VALIDATION = "train_swin.py", "validate.py"
_CONFIG = "entry of configs.yml"

A_RUN = Only("with a run folder", lambda given: (Path(given.checkpoint) / "checkpoints").is_dir())


@dataclass(frozen=True)
class TrainOptions(
    CheckpointOptions,
    ModelOptions,
    DataOptions,
    AugmentationOptions,
    BatchOptions,
    TrainingOptions,
    OptimizerOptions,
    IpuTrainingOptions,
):
    """Training."""

    config: str = option(help=_CONFIG, aliases=("cfg",))
    output: str = option("output/{config}", "run folder", aliases=("checkpoint_output_dir",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite:
            keep_weights(self.pretrained_model, Path(self.output))


@dataclass(frozen=True)
class ValidationOptions(ModelOptions, DataOptions, BatchOptions, IpuOptions):
    """Checkpoint."""

    config: str = option(help=_CONFIG, aliases=("cfg",))
    output: str = option("output/{config}_valid", "folder of the result")
    checkpoint: str = option(help="run folder (its best checkpoint), weights or hub name")
    ema: bool = option(False, "the averaged weights of a run that was trained with --ema-decay", only=A_RUN)


@dataclass(frozen=True)
class _ValidationEntry(ValidationOptions, TrainOptions):
    """What an entry of configs.yml, which is for both scripts, may hold when it is validated."""

    output: str = option("output/{config}_valid", "folder of the result")


Options = Union[TrainOptions, ValidationOptions]

# What a resumed run may be given anew beside what every app allows.
MAY_CHANGE = {
    *("pretrained_model", "new_head", "num_classes", "data_path", "data_format", "num_workers", "bad_image_ratio"),
    *("crop", "epochs", "training_steps", "base_lr", "warmup_lr", "min_lr", "warmup_epochs", "lr_scheduler"),
    *("lr_legacy", "decay_epochs", "decay_rate", "save_freq", "keep_checkpoints", "evaluate", "eval_freq"),
    *("use_checkpoint", "ema_evaluate", "layers_per_ipu", "mapping_for_21k", "amp", "executable_cache_dir", "rts"),
    *("remap", "remap_so", "compile_only"),
}

REFUSED = {
    "device": "PopTorch decides: the SDK's where it is installed, else the host (POPTORCH_HOST=1 forces the host)",
    "alignment": "it has no effect in the document's code either",
    "weights": "--pretrained-model gives the weights to start from",
    "half": "--precision 16.16 says it",
    "cache_mode": "pack the images with python -m dataset.pack instead",
    "zip_mode": "--data-format zip says it, and is found out by itself",
}


def read_training(arguments: Optional[Sequence[str]], description: str) -> TrainOptions:
    """The options of train_swin.py from its arguments, by default the command line's; UsageError for wrong ones."""
    return parse(TrainOptions, arguments, configs=CONFIGS, script=TRAINING, description=description, refused=REFUSED)


def read_validation(arguments: Optional[Sequence[str]], description: str) -> ValidationOptions:
    """The options of validate.py, likewise.

    It shares the entries of configs.yml with training, whose keys it passes over; as flags they are errors.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        words = ["--help"]
    known, training = fields_of(ValidationOptions), fields_of(TrainOptions)
    own = {alias for field in known.values() for alias in (field.name, *field.aliases)}
    foreign = {alias for name in training.keys() - known.keys() for alias in (name, *training[name].aliases)} - own
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag[2:].replace("-", "_") in foreign:
            raise UsageError("%s has no effect in this script: it only matters in training" % flag)
    cls = ValidationOptions if words == ["--help"] else _ValidationEntry
    entry = parse(cls, words, configs=CONFIGS, script=VALIDATION, description=description, refused=REFUSED)
    return ValidationOptions(**{name: getattr(entry, name) for name in known})
