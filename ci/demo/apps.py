"""What the demo runs: for each app the commands of its README, and where their results lie.

A command stands as in the README; its run folders are below demo/APP instead of output. What the demo adds to it –
where to write, what to print – is apart, so that a test can compare the rest with the README.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent.parent
# Ten of the held-out digits, whichever classes they are of.
SOME = '"data/digits/validation/*/*0000001?.JPEG"'


@dataclass(frozen=True)
class Step:
    """A command to run in the app's folder.

    Attributes:
        name: what it does, in a word.
        command: as in the README.
        extra: what the demo adds.
        output: file in demo/APP for standard output, which goes to the step's log otherwise.
    """

    name: str
    command: str
    extra: str = ""
    output: Optional[str] = None

    @property
    def text(self) -> str:
        """The whole command."""
        return f"{self.command} {self.extra}".strip()


@dataclass(frozen=True)
class Run:
    """A run folder in demo/APP and what its training is called."""

    name: str
    folder: str


@dataclass(frozen=True)
class Pictures:
    """Pictures that a step draws into the folder `folder` of demo/APP, and what they show."""

    title: str
    about: str
    folder: str


@dataclass(frozen=True)
class App:
    """One of the five.

    Attributes:
        key: for make and the folder in demo.
        title: what it trains.
        folder: of the app, from the root.
        about: a sentence.
        steps: in order.
        runs: trainings, for the curves; one of them trains the classifier.
        classifier: the run whose accuracy counts.
        least: top-1 below which the demo fails.
        score: folder of demo/APP with validation.json, which says how good the classifier is; else its history does.
        baseline: run that shows what the classifier would be without what came before it.
        pictures: to show.
        environment: name in .venv.
        processes: that compute at the same time.
    """

    key: str
    title: str
    folder: str
    about: str
    steps: List[Step]
    runs: List[Run]
    classifier: str
    least: float
    score: Optional[str] = None
    baseline: Optional[str] = None
    pictures: Sequence[Pictures] = ()
    environment: str = "torch"
    processes: int = 1


SAMPLE = Step("sample", "python -m common.imagenet sample data/digits")


def predict(key: str, run: str) -> Step:
    """Classes of all held-out digits, as JSON."""
    command = f"python predict.py --checkpoint ../demo/{key}/{run} data/digits/validation"
    return Step("predict", command, "--json", output="predictions.json")


ROLLOUT = Pictures(
    "Attention",
    "How much of each patch reached the classifier, in multiples of an even share (attention rollout).",
    "attention",
)

VIT = App(
    key="vit",
    title="ViT",
    folder="vit_pytorch_ipu",
    about="Written to the PopTorch API; here PopTorch is this repository's own, on plain PyTorch. From random weights.",
    steps=[
        SAMPLE,
        Step("fine-tune", "python finetune.py --config digits", "--output ../demo/vit/digits"),
        Step(
            "validate",
            "python validation.py --config digits_valid",
            "--pretrained-checkpoint ../demo/vit/digits --output ../demo/vit/digits_valid",
        ),
        predict("vit", "digits"),
        Step(
            "attention",
            f"python predict.py --checkpoint ../demo/vit/digits {SOME}",
            "--attention --output ../demo/vit/attention",
        ),
    ],
    runs=[Run("training", "digits")],
    classifier="digits",
    score="digits_valid",
    least=0.95,
    pictures=[ROLLOUT],
)

MAE = App(
    key="mae",
    title="MAE",
    folder="mae_pytorch_ipu",
    about="A masked autoencoder learns from images without labels; its encoder, fine-tuned in 110 updates, classifies. "
    "The same 110 updates from random weights show what the pretraining is worth.",
    steps=[
        SAMPLE,
        Step("pretrain", "python main_pretrain.py --config digits_pretrain", "--output ../demo/mae/digits_pretrain"),
        Step(
            "fine-tune",
            "python main_finetune.py --config digits_finetune",
            "--finetune ../demo/mae/digits_pretrain --output ../demo/mae/digits_finetune",
        ),
        Step(
            "validate",
            "python finetune_validate.py --config digits_validate",
            "--resume ../demo/mae/digits_finetune --output ../demo/mae/digits_valid",
        ),
        Step("compare", "python main_finetune.py --config digits_scratch", "--output ../demo/mae/digits_scratch"),
        Step(
            "reconstruct",
            f"python visualize.py --checkpoint ../demo/mae/digits_pretrain {SOME}",
            "--output ../demo/mae/reconstructions",
        ),
        predict("mae", "digits_finetune"),
        Step(
            "attention",
            f"python predict.py --checkpoint ../demo/mae/digits_finetune {SOME}",
            "--attention --output ../demo/mae/attention",
        ),
    ],
    runs=[
        Run("pretraining", "digits_pretrain"),
        Run("fine-tuning, pretrained", "digits_finetune"),
        Run("from random weights", "digits_scratch"),
    ],
    classifier="digits_finetune",
    baseline="digits_scratch",
    score="digits_valid",
    least=0.93,
    pictures=[
        Pictures(
            "Reconstructions",
            "Held-out digits with three quarters of the patches masked, and what the model fills in.",
            "reconstructions",
        ),
        ROLLOUT,
    ],
)

SWIN = App(
    key="swin",
    title="Swin",
    folder="swin_pytorch_ipu",
    about="Shifted windows, written to the PopTorch API, with the weights' moving average. From random weights.",
    steps=[
        SAMPLE,
        Step("train", "python train_swin.py --cfg SWIN_DIGITS", "--output ../demo/swin/SWIN_DIGITS"),
        Step(
            "validate",
            "python3 validate.py --cfg SWIN_DIGITS --checkpoint ../demo/swin/SWIN_DIGITS",
            "--output ../demo/swin/digits_valid",
        ),
        predict("swin", "SWIN_DIGITS"),
        Step(
            "activation",
            f"python predict.py --checkpoint ../demo/swin/SWIN_DIGITS {SOME}",
            "--activation --output ../demo/swin/activation",
        ),
    ],
    runs=[Run("training", "SWIN_DIGITS")],
    classifier="SWIN_DIGITS",
    score="digits_valid",
    least=0.95,
    pictures=[Pictures("Activation", "Which places of the image spoke for the class.", "activation")],
)

GAUDI = App(
    key="gaudi",
    title="Gaudi ViT",
    folder="vit_pytorch_gaudi",
    about="The PyTorch ViT for Habana Gaudi, here two processes on the CPU that share each batch.",
    steps=[
        SAMPLE,
        Step(
            "train",
            "torchrun --nproc-per-node 2 train.py --name digits2 --config digits --global_batch_size 32 "
            "--train_batch_size 16 --device cpu",
            "--output_dir ../demo/gaudi",
        ),
        predict("gaudi", "digits2"),
        Step(
            "attention",
            f"python predict.py --checkpoint ../demo/gaudi/digits2 {SOME}",
            "--attention ../demo/gaudi/attention",
        ),
    ],
    runs=[Run("training", "digits2")],
    classifier="digits2",
    least=0.95,
    pictures=[ROLLOUT],
    processes=2,
)

KERAS = App(
    key="keras",
    title="Keras ViT",
    folder="vit_tensorflow_gaudi",
    about="The TensorFlow ViT for Habana Gaudi, here on the CPU, from TFRecords that preprocess_imagenet.py makes.",
    steps=[
        SAMPLE,
        Step(
            "TFRecords",
            "python preprocess_imagenet.py --raw_data_dir data/digits --local_scratch_dir data/digits_records "
            "--train_shards 4 --validation_shards 2",
        ),
        Step(
            "train",
            "python train.py --dataset data/digits_records --weights none --image_size 32 --patch_size 4 "
            "--hidden_size 64 --num_layers 4 --num_heads 4 --mlp_dim 128 --optimizer adamw --initial_lr 0.003 "
            "--warmup_steps 100 --grad_accum_steps 1 --augmentation none --epochs 20 --output ../demo/keras/digits",
            "--seed 0",
        ),
        predict("keras", "digits"),
    ],
    runs=[Run("training", "digits")],
    classifier="digits",
    least=0.95,
    environment="tensorflow",
)

APPS = {app.key: app for app in (VIT, MAE, SWIN, GAUDI, KERAS)}
# Those of several processes first, while nothing else runs; then the longest, so that the last ones end together.
ORDER = ["gaudi", "mae", "vit", "keras", "swin"]
