"""Options of the MAE scripts: one frozen dataclass per script, its groups inherited."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Union

from models import PRETRAINING
from option_groups import (
    FILES,
    AugmentationOptions,
    BatchOptions,
    CheckpointOptions,
    ClassifierOptions,
    DataOptions,
    IpuOptions,
    LossScaleOptions,
    ModelOptions,
    TrainingDataOptions,
    TrainingOptions,
)
from preparation import EVAL_RESIZES
from run.errors import UsageError
from run.option_values import Only
from run.options import option
from run.origin import keep_weights

REMAP = Only("with --remap", lambda given: given.remap is not False)


@dataclass(frozen=True)
class PretrainOptions(
    CheckpointOptions, ModelOptions, TrainingDataOptions, BatchOptions, TrainingOptions, LossScaleOptions, IpuOptions
):
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
    warmup_epochs: float = option(40, "epochs of linear warm-up from 0", minimum=0)
    pipeline: List[int] = option(
        [3, 3, 3, 3, 2, 2, 2, 2],
        "layers on each IPU: of the encoder, then, from the first IPU on again, of the decoder",
        minimum=0,
    )
    rts: bool = option(False, "shard the optimizer's state over replicas")
    mask_on_host: Optional[bool] = option(
        None, "draw masks while loading and send them as matrices; none does so for IPUs only"
    )
    remap: Optional[bool] = option(None, "lay activations out anew between layers; none does so on IPUs only")
    remap_so: str = option("./remap/remap_ops.so", "library of the remap op, or folder of its sources", only=REMAP)

    def sizes(self) -> Dict[str, object]:
        """The same with what only pretraining's model has."""
        names = {"decoder_embed_dim": "decoder_width", "decoder_num_heads": "decoder_heads"}
        fields = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
        given = {names.get(name, name): getattr(self, name) for name in fields}
        own = {name: value for name, value in given.items() if value is not None}
        if self.decoder_embed_dim is not None:
            own["decoder_mlp_width"] = 4 * self.decoder_embed_dim
        target = {"mask_ratio": self.mask_ratio, "norm_pix_loss": self.norm_pix_loss, "gelu": self.gelu_type}
        return {**super().sizes(), **own, **target}


@dataclass(frozen=True)
class FinetuneOptions(
    CheckpointOptions,
    ClassifierOptions,
    TrainingDataOptions,
    AugmentationOptions,
    BatchOptions,
    TrainingOptions,
    LossScaleOptions,
    IpuOptions,
):
    """Fine-tuning."""

    config: str = option("vit_base_finetune", "entry of the config file")
    finetune: str = option("", "weights to start from: run folder, file or hub name; empty starts from random ones")
    drop_path: float = option(0.1, "stochastic depth of the last layer, rising from 0", minimum=0, maximum=1)
    layer_decay: float = option(
        0.65, "factor on the learning rate from layer to layer, from the head down", positive=True
    )
    min_lr: float = option(1e-6, "learning rate at the end of the cosine, of the head", minimum=0)
    clip_grad: float = option(0.0, "largest norm of the whole gradient; 0 for no limit", minimum=0)
    rts: bool = option(True, "shard the optimizer's state over replicas")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite:
            keep_weights(self.finetune, Path(self.output))


@dataclass(frozen=True)
class LinprobeOptions(
    CheckpointOptions, ClassifierOptions, TrainingDataOptions, BatchOptions, TrainingOptions, IpuOptions
):
    """Linear probe."""

    config: str = option("vit_base_linprobe", "entry of the config file")
    finetune: str = option("", "weights to probe: run folder, file or hub name; empty probes random ones")
    global_pool: bool = option(False, "tell the class from the mean of the patches, else from the class token")
    weight_decay: float = option(0.0, "on the matrix of the head", minimum=0)
    blr: float = option(
        0.1,
        "peak learning rate per 256 samples of the global batch",
        minimum=0,
        only=Only("without --lr", lambda given: given.lr is None),
    )
    warmup_epochs: float = option(10, "epochs of linear warm-up from 0", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cls_token and self.global_pool:
            raise UsageError("--cls_token and --global_pool name two features: give one of them")
        if self.overwrite:
            keep_weights(self.finetune, Path(self.output))


@dataclass(frozen=True)
class ValidationOptions(DataOptions, BatchOptions, IpuOptions):
    """Validation."""

    config: str = option("vit_base_validate", "entry of the config file")
    resume: str = option(
        help="what is validated: run folder (its best checkpoint), RUN/latest, RUN/step-N, a file or a hub name"
    )
    input_size: Optional[int] = option(
        None, "side of the input; none: the one of the weights", unit="pixels", minimum=1
    )
    eval_resize: Optional[str] = option(
        None,
        "crop = resize by 256/224, cut the centre; direct = resize; none: the one of the weights",
        choices=EVAL_RESIZES,
        only=FILES,
    )
    half: bool = option(False, "float16 arithmetic and weights on an IPU, bfloat16 arithmetic on a host")
    batch_size: int = option(16, "samples of one forward pass on one replica", minimum=1)


Options = Union[PretrainOptions, FinetuneOptions, LinprobeOptions, ValidationOptions]

# What a resumed run may be given anew beside what every app allows.
MAY_CHANGE = {
    *("data_path", "num_workers", "async_type", "rebatched_worker_size", "bad_image_ratio", "epochs", "lr", "blr"),
    *("min_lr", "warmup_epochs", "saveckp_freq", "keep_checkpoints", "eval_freq", "evaluate", "eval_resize"),
    *("finetune", "nb_classes", "pipeline", "ipus", "memory_proportion", "executable_cache_dir", "compile_only"),
    *("rts", "mask_on_host", "remap", "remap_so"),
}

IT_FOLLOWS = "it follows from the model, --input_size and --patch_size"
ELSEWHERE = {
    "sequence_length": IT_FOLLOWS,
    "device": "PopTorch decides: the SDK's where it is installed, else the host (POPTORCH_HOST=1 forces the host)",
    "log": "the run folder's history.jsonl and TensorBoard files hold the log",
    "optimizer_step": "the learning rate is set before every step",
}
PRETRAINS = "it belongs to pretraining (main_pretrain.py)"
REFUSED_IN_PRETRAINING = {
    **ELSEWHERE,
    "checkpoint": "--resume goes on from the newest intact checkpoint of the run folder",
    "finetune": "fine-tuning is main_finetune.py",
}
REFUSED_IN_FINETUNING = {
    **ELSEWHERE,
    "start_epoch": "--resume knows where the run stopped",
    "eval": "validation is finetune_validate.py",
    "dist_eval": "evaluation is exact over any number of processes",
    "resplit": "it needs augmentation in splits, which this recipe has not",
    **dict.fromkeys(("mask_ratio", "norm_pix_loss", "remap", "remap_so", "mask_on_host"), PRETRAINS),
}
REFUSED_IN_PROBING = {
    **REFUSED_IN_FINETUNING,
    **dict.fromkeys(AugmentationOptions.__annotations__, "a probe's images are only cropped and flipped"),
    **dict.fromkeys(("drop_path", "layer_decay"), "the encoder is not trained"),
    **dict.fromkeys(("loss_scale", "use_als", "rts", "clip_grad"), "the head is trained on the host, in float32"),
}


def refused_in_validation() -> Dict[str, str]:
    """Flags of training → why validation refuses them."""
    own = set(ValidationOptions.__dataclass_fields__)
    training = [*FinetuneOptions.__dataclass_fields__, *REFUSED_IN_FINETUNING, "print_freq"]
    refused = {name: "it only matters in training" for name in training if name not in own}
    sizes = (*ModelOptions.__annotations__, *ClassifierOptions.__annotations__, "mean", "std")
    refused.update({name: "the weights tell it" for name in sizes if name not in own})
    return {**refused, "finetune": "--resume names the weights"}
