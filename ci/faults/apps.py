"""The five apps as their commands: a small run of each, how it is resumed, and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

from ci.faults.processes import ROOT

Words = List[str]

VIT, MAE, SWIN = "vit_pytorch_ipu", "mae_pytorch_ipu", "swin_pytorch_ipu"
GAUDI, KERAS = "vit_pytorch_gaudi", "vit_tensorflow_gaudi"

# One device iteration: weights that are read on the host during a step are then those before its update.
_VIT = """finetune.py --config digits --hidden-size 32 --num-hidden-layers 2 --num-attention-heads 2 --mlp-dim 64
    --layers-per-ipu 2 --patches-size 8 --micro-batch-size 4 --gradient-accumulation 2 --device-iterations 1
    --warmup-steps 2 --log-every 1 --tensorboard false --drop-path-rate 0 --hidden-dropout-prob 0.2"""
_MAE = """--embed-dim 16 --depth 2 --num-heads 2 --mlp-dim 32 --patch-size 8 --batch-size 8
    --gradient-accumulation-count 2 --log-every 1 --tensorboard false"""
_MAE_PRETRAIN = f"""main_pretrain.py --config digits_pretrain {_MAE} --decoder-embed-dim 16 --decoder-depth 1
    --decoder-num-heads 2 --pipeline 2 1 --lr 0.003"""
MAE_FINETUNE = f"main_finetune.py --config digits_scratch {_MAE} --pipeline 2 --drop-path 0.3".split()
_SWIN = """train_swin.py --cfg SWIN_DIGITS --embed-dim 16 --depths 1 1 --num-heads 1 2 --patch-size 4 --window-size 4
    --layers-per-ipu 2 --batch-size 8 --gradient-accumulation-steps 2 --log-every 1 --tensorboard false
    --drop-path-rate 0.2 --mixup 0.8 --ema-decay 0.9 --ema-every 3"""
_GAUDI = """train.py --dataset folder --pretrained_dir none --device cpu --img_size 32 --patches_size 8
    --hidden_size 32 --num_hidden_layers 2 --num_attention_heads 2 --mlp_dim 64 --train_batch_size 16
    --gradient_accumulation_steps 2 --warmup_steps 2 --learning_rate 0.03 --log_every 1 --tensorboard false
    --hidden_dropout_prob 0.2"""
_KERAS = """train.py --image_size 16 --patch_size 8 --hidden_size 16 --num_layers 1 --num_heads 2 --mlp_dim 16
    --weights none --device CPU --batch_size 8 --grad_accum_steps 2 --warmup_steps 4 --log_every 1 --seed 3
    --optimizer adam --initial_lr 0.01"""


@dataclass(frozen=True)
class App:
    """One app.

    Attributes:
        name: its folder.
        environment: whose Python it runs in.
        script: begins a training command, with the sizes of the model.
        data: flag of the data's path.
        length: flags of a run of `steps` steps on 70 images, with checkpoints on the way and evaluations.
        steps: that the run's history then has.
        workers: flag of the number of loading processes, empty where there are none.
    """

    name: str
    environment: str
    script: Words
    data: str
    length: Words
    steps: int
    workers: str

    @property
    def folder(self) -> Path:
        """Where its commands run."""
        return ROOT / self.name

    def train(self, data: Path, run: Path, *more: object) -> Words:
        """The training command without a length."""
        place = ["--name", run.name, "--output_dir", run.parent] if self.name == GAUDI else ["--output", run]
        return list(map(str, [*self.script, self.data, data, *place, *more]))

    def whole(self, data: Path, run: Path, *more: object) -> Words:
        """The training command with its length, going on with what is in the run folder, if there is anything."""
        resume = ["--resume_from_checkpoint_path", run] if self.name == KERAS else ["--resume"]
        alone = [self.workers, 0] if self.workers and self.workers not in more else []
        return self.train(data, run, *self.length, *resume, *alone, *more)


APPS: Dict[str, App] = {
    app.name: app
    for app in (
        App(VIT, "torch", _VIT.split(), "--dataset-path",
            ["--training-steps", "24", "--checkpoint-save-steps", "2", "--eval-every", "12"], 24,
            "--dataloader-workers"),
        App(MAE, "torch", _MAE_PRETRAIN.split(), "--data-path",
            ["--epochs", "8", "--warmup-epochs", "1", "--saveckp-freq", "1", "--eval-freq", "4"], 32,
            "--num-workers"),
        App(SWIN, "torch", _SWIN.split(), "--data-path",
            ["--training-steps", "24", "--save-freq", "0.5", "--eval-freq", "3"], 24,
            "--num-workers"),
        App(GAUDI, "torch", _GAUDI.split(), "--data_path",
            ["--num_steps", "24", "--checkpoint_save_steps", "2", "--eval_every", "12"], 24,
            "--dataloader_workers"),
        App(KERAS, "tensorflow", _KERAS.split(), "--dataset",
            ["--epochs", "6", "--steps_per_epoch", "5", "--checkpoint_steps", "4"], 18,
            ""),
    )
}  # fmt: skip
