"""Compare the gradients that two implementations find for the same weights, images and masks.

python -m scripts.alignment --gradients exact|fast|plain|ipu     writes OUTPUT/NAME.safetensors
python -m scripts.alignment --compare exact fast …               holds the others against the first, tensor by tensor

exact and fast are the host's two kinds of arithmetic, plain is torch's autograd in float32 without an executor, and
ipu the Poplar SDK, with masks as matrices and remaps as pretraining has them there. The inputs are made by the first
one and kept in OUTPUT, so that another machine can be given the folder.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from building import build_autoencoder
from ipu_options import training_options
from models import PRETRAINING, SIZES, MaskedAutoencoder
from models.masking import one_hot
from models.reconstruction import Reconstruction, mask_noise
from models.supervised import normalised
from optimization import pretraining_optimizer
from options import PretrainOptions
from poptorch_host.backend import is_host, poptorch, reason
from run.errors import UsageError, UserError, entry_point
from run.load_report import some
from run.option_values import Only
from run.options import option, parse

CONFIGS = Path(__file__).resolve().parent.parent / "configs.yml"
GRADIENT = "Gradient___"  # what PopART calls a weight's gradient, before the weight's name
INPUTS = "inputs"

_MAKES = Only("with --gradients", lambda given: given.gradients is not None)
_COMPARES = Only("with --compare", lambda given: bool(given.compare))


@dataclass(frozen=True)
class AlignmentOptions:
    """Alignment."""

    gradients: Optional[str] = option(
        None, "implementation whose gradients are written", choices=("exact", "fast", "plain", "ipu")
    )
    compare: List[str] = option([], "implementations whose gradients are compared, the first with each other one")
    output: str = option("output/alignment", "folder of inputs and gradients")
    model: str = option("mae_vit_align_patch16", "size and patch", choices=PRETRAINING, only=_MAKES)
    input_size: int = option(224, "side of the square input", unit="pixels", minimum=1, only=_MAKES)
    norm_pix_loss: bool = option(True, "targets are pixels normalised within their patch", only=_MAKES)
    gelu_type: str = option("erf", "the exact GELU, or its approximation by tanh", choices=("erf", "tanh"), only=_MAKES)
    half: bool = option(
        False, "float16 on an IPU and in exact, bfloat16 in fast, rounded weights in plain", only=_MAKES
    )
    loss_scale: float = option(1.0, "factor on the loss, undone in what is written", positive=True, only=_MAKES)
    batch_size: int = option(1, "images", minimum=1, only=_MAKES)
    seed: int = option(2, "of weights, images and masks", minimum=0, only=_MAKES)
    tolerance: float = option(
        1e-3, "largest difference, as a share of the gradient's largest value", minimum=0, only=_COMPARES
    )
    debug: bool = option(False, "show where in the program an error comes from")

    def __post_init__(self) -> None:
        if (self.gradients is None) == (not self.compare):
            raise UsageError("give either --gradients NAME or --compare NAME NAME …")
        if self.compare and len(self.compare) < 2:
            raise UsageError("--compare %s names one implementation: give at least two" % self.compare[0])

    @property
    def settings(self) -> str:
        """What gradients that can be compared have in common."""
        names = ("model", "input_size", "norm_pix_loss", "gelu_type", "batch_size", "seed")
        return json.dumps({name: getattr(self, name) for name in names})


class Difference(NamedTuple):
    """Of one gradient: the largest value of the first, and the largest difference of the other."""

    name: str
    largest: float
    difference: float

    @property
    def share(self) -> float:
        """The difference as a share of the largest value."""
        if self.difference == 0:
            return 0.0
        return self.difference / self.largest if self.largest else math.inf


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Write gradients, or compare them."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(AlignmentOptions, arguments, configs=None, script="alignment.py", description=about)
    folder = Path(options.output)
    if options.gradients is not None:
        gradients = find_gradients(options.gradients, options)
        path = folder / f"{options.gradients}.safetensors"
        safetensors.torch.save_file(gradients, str(path), metadata={"settings": options.settings})
        print(f"{path}: {len(gradients)} gradients, {reason}", flush=True)
        return
    found = {name: read(folder / f"{name}.safetensors") for name in options.compare}
    first = options.compare[0]
    for other in options.compare[1:]:
        if found[first][1] != found[other][1]:
            raise UserError(f"{first} and {other} in {folder} have other inputs: write the gradients of both anew")
        report(first, other, found[first][0], found[other][0], options.tolerance)


def find_gradients(implementation: str, options: AlignmentOptions) -> Dict[str, Tensor]:
    """Gradients of the mean loss, float32, by the names of the weights.

    Raises:
        UserError: this process can't run the implementation, or the inputs in the folder are those of other settings.
    """
    if (implementation == "ipu") == is_host:
        how = "enable the Poplar SDK" if is_host else "set POPTORCH_HOST=1"
        raise UserError(f"{implementation} can't be had here, {reason}: {how}")
    given = pretraining_options(options)
    weights, images, keys = inputs(options, given)
    if implementation == "plain":
        return plain_gradients(given, weights, images, keys)
    os.environ["POPTORCH_HOST_NUMERICS"] = "fast" if implementation == "fast" else "exact"
    masks = keys if is_host else matrices(given, keys)
    return executor_gradients(given, weights, images, masks)


def pretraining_options(options: AlignmentOptions) -> PretrainOptions:
    """Options of one update on one IPU, as main_pretrain.py has them."""
    sizes = SIZES[options.model]
    words = ["--model", options.model, "--pipeline", str(sizes["depth"]), str(sizes["decoder_depth"]), "--ipus", "1"]
    words += ["--replica", "1", "--gradient_accumulation_count", "1", "--rts", "false", "--executable_cache_dir", ""]
    for name in ("input_size", "norm_pix_loss", "gelu_type", "half", "loss_scale", "batch_size"):
        words += [f"--{name}", str(getattr(options, name))]
    return parse(PretrainOptions, words, configs=CONFIGS, script="main_pretrain.py", description="")


def inputs(options: AlignmentOptions, given: PretrainOptions) -> Tuple[Dict[str, Tensor], Tensor, Tensor]:
    """Weights by name, images (B, 3, H, W) uint8 and keys of their masks (B,): from the folder, else made and kept."""
    path = Path(options.output) / f"{INPUTS}.safetensors"
    if not path.exists():
        torch.manual_seed(options.seed)
        tensors = {name: tensor.float() for name, tensor in build_autoencoder(given).state_dict().items()}
        size = (options.batch_size, 3, options.input_size, options.input_size)
        tensors["images"] = torch.randint(0, 256, size, dtype=torch.uint8)
        tensors["keys"] = torch.randint(0, 2**62, (options.batch_size,))
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, str(path), metadata={"settings": options.settings})
    tensors, settings = read(path)
    if settings != options.settings:
        raise UserError(f"{path} was made for {settings}: give another --output, or remove it")
    images, keys = tensors.pop("images"), tensors.pop("keys")
    return tensors, images, keys


def matrices(given: PretrainOptions, keys: Tensor) -> Tensor:
    """The masks of keys (B,) as one-hot matrices (B, P, V)."""
    config = build_autoencoder(given).config
    dtype = torch.half if given.half else torch.float32
    return one_hot(mask_noise(keys, config.patches), config.visible, dtype)


def plain_gradients(
    given: PretrainOptions, weights: Dict[str, Tensor], images: Tensor, keys: Tensor
) -> Dict[str, Tensor]:
    """By torch's autograd, in float32 from weights as rounded as the options' precision has them."""
    network = _network(given, weights).float()
    noise = mask_noise(keys, network.config.patches)
    network(normalised(images, given.mean, given.std), noise)[0].backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def executor_gradients(
    given: PretrainOptions, weights: Dict[str, Tensor], images: Tensor, masks: Tensor
) -> Dict[str, Tensor]:
    """Read back from a training program: all that the compiled program has a tensor for."""
    wanted: Dict[str, str] = {}
    for anchored in (False, True):  # which tensors there are is known once it is compiled
        options = training_options(given)
        for short, name in wanted.items():
            options.anchorTensor(short, name)
        model = Reconstruction(_network(given, weights), given.mean, given.std).train()
        executor = poptorch.trainingModel(model, options, pretraining_optimizer(model, given))
        if not anchored:
            executor.compile(images, masks)
            held = set(executor.getTensorNames())
            names = [name for name, _ in model.named_parameters()]
            wanted = {name: GRADIENT + name for name in names if GRADIENT + name in held}
            executor.destroy()
    executor(images, masks)
    found = {name: executor.getAnchoredTensor(name).float() / given.loss_scale for name in wanted}
    executor.destroy()
    return {name[len("model.") :]: gradient for name, gradient in found.items()}


def _network(given: PretrainOptions, weights: Dict[str, Tensor]) -> MaskedAutoencoder:
    network = build_autoencoder(given)
    network.load_state_dict(weights)
    return network


def read(path: Path) -> Tuple[Dict[str, Tensor], str]:
    """Tensors of a file and the settings that they belong to; UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: write it first, with --gradients {path.stem}")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    return safetensors.torch.load_file(str(path)), metadata.get("settings", "")


def differences(first: Dict[str, Tensor], other: Dict[str, Tensor]) -> List[Difference]:
    """Of every gradient that both have.

    Raises:
        UserError: they have none in common, or one is of two shapes.
    """
    common = [name for name in first if name in other]
    if not common:
        raise UserError("the two have no gradient in common, so nothing can be compared: write both anew")
    found = []
    for name in common:
        if first[name].shape != other[name].shape:
            shapes = tuple(first[name].shape), tuple(other[name].shape)
            raise UserError("%s is of %s in the one and of %s in the other: write both anew" % (name, *shapes))
        difference = (first[name] - other[name]).abs()
        found.append(Difference(name, float(first[name].abs().max()), float(difference.max())))
    return found


def report(first: str, other: str, ours: Dict[str, Tensor], theirs: Dict[str, Tensor], tolerance: float) -> None:
    """Print the differences of two implementations; UserError if one is not tolerated, such as NaN."""
    found = differences(ours, theirs)
    print(f"{'gradient':<44} {'largest':>10} {'difference':>10} {'share':>9}   {other} against {first}")
    bad = [row for row in found if not row.share <= tolerance]
    for row in found:
        print("%-44s %10.3e %10.3e %9.1e%s" % (*row, row.share, "   *" if row in bad else ""))
    lacking = sorted(set(ours) ^ set(theirs))
    if lacking:
        print(f"only one of the two has {some(lacking)}")
    print(f"{len(found)} gradients compared, {len(bad)} differ by more than {tolerance:g} of their largest value\n")
    if bad:
        worst = max(bad, key=lambda row: (math.isnan(row.share), row.share))
        raise UserError(
            f"{other} differs from {first} in {len(bad)} gradients (marked *), most in {worst.name}, by "
            f"{worst.share:.1e} of its largest value: look for the reason, or give a higher --tolerance"
        )


if __name__ == "__main__":
    entry_point(main)
