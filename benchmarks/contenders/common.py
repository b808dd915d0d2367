"""What contenders in torch share: data, the peers' steps, the matrix product, the apps' folders."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Callable, Iterable, Optional, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.interleaved import Built, Contenders, Settings
from benchmarks.machine import ROOT

CLASSES = 1000
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
VARIANTS = ("shipped", "tuned", "compiled")
MATMUL_SIZE = {"cpu": (2048, 8), "cuda": (8192, 50)}  # rows and columns, products in a step


def enter(app: str) -> None:
    """Make the modules of `app` importable and keep freed memory, as when its scripts run."""
    os.chdir(ROOT / app)
    sys.path.insert(0, str(ROOT / app))
    from run.memory import keep_freed_memory

    keep_freed_memory()


def images_and_labels(settings: Settings) -> Tuple[Tensor, Tensor]:
    """A batch of uint8 pixels (B, 3, H, W) and labels (B,), the same for every contender."""
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch_size, 3, settings.image_size, settings.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return images, torch.randint(CLASSES, (settings.batch_size,), generator=generator)


class Images:
    """As many samples as a batch has, only to be counted."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def sample(self, epoch: int, index: int) -> Any:
        """None is ever asked for."""
        raise NotImplementedError

    def check_bad_images(self) -> int:
        """There are none."""
        return 0


def flops_of(step: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions of one step, forward and backward.

    The step is made uncompiled and with attention in plain products, so that the same work counts the same.
    """
    eager, plain = torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH)
    with eager, plain, warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.filterwarnings("ignore", message=".*when there are global hooks")  # the counter's own
        step()
    return int(counter.get_total_flops())


def built(step: Callable[[], Any], parameters: Iterable[Tensor]) -> Built:
    """A contender whose step is counted in torch."""
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return Built(step, lambda: flops_of(step), trained)


def peer(
    model: nn.Module,
    forward: Callable[[nn.Module], Tensor],
    loss: Callable[[Tensor], Tensor],
    settings: Settings,
    variant: str,
    *,
    clip: Optional[float] = None,
) -> Built:
    """A peer's step as one writes it.

    Args:
        model: to train, or in inference to run.
        forward: of the model, on data that lie on the device.
        loss: of what it gives.
        settings: dtype bf16 is autocast over float32 weights.
        variant: one of VARIANTS: compiled is what tuned is, its model compiled by inductor.
        clip: cap on the gradient's norm.
    """
    training = settings.mode == "train"
    model.to(settings.device).train(training)
    run = cast(nn.Module, torch.compile(model)) if variant == "compiled" else model
    autocast = torch.autocast(settings.device, torch.bfloat16, enabled=settings.dtype == "bf16")
    parameters = list(model.parameters())

    def infer() -> Tensor:
        with torch.inference_mode(), autocast:
            return forward(run)

    if not training:
        return built(infer, parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=None if variant == "shipped" else True)

    def step() -> Tensor:
        with autocast:
            value = loss(forward(run))
        value.backward()
        if clip:
            clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return built(step, parameters)


def classifier(
    model: nn.Module,
    settings: Settings,
    variant: str,
    *,
    clip: Optional[float] = None,
    smoothing: float = 0.0,
) -> Built:
    """`peer` for a classifier on normalised float images; its output may be logits or hold them."""
    images, labels = images_and_labels(settings)
    inputs, targets = (images / 127.5 - 1).to(settings.device), labels.to(settings.device)

    def forward(module: nn.Module) -> Tensor:
        output = module(inputs)
        return output if isinstance(output, Tensor) else output.logits

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    return peer(model, forward, loss, settings, variant, clip=clip)


def variants(name: str, peer: Callable[[Settings, str], Built]) -> Contenders:
    """A library's contenders: `name`_shipped, `name`_tuned, `name`_compiled."""

    def of(variant: str) -> Callable[[Settings], Built]:
        return lambda settings: peer(settings, variant)

    return {f"{name}_{variant}": of(variant) for variant in VARIANTS}


def compiled(ours: Callable[[Settings], Built]) -> Callable[[Settings], Built]:
    """An IPU app's contender with poptorch_host compiling its model."""

    def build(settings: Settings) -> Built:
        os.environ["POPTORCH_HOST_COMPILE"] = "1"
        return ours(settings)

    return build


def fuses_attention(settings: Settings, variant: str) -> bool:
    """Whether a ViT's attention is SDPA: where it is shipped, and where plain operations are not faster.

    SDPA's backward is slow in bfloat16 on a CPU.
    """
    is_slow = settings.device == "cpu" and settings.dtype == "bf16" and settings.mode == "train"
    return variant == "shipped" or not is_slow


def matmul(settings: Settings) -> Built:
    """Products of large square matrices: the peak that the contenders are held against."""
    size, products = MATMUL_SIZE[settings.device]
    a, b = (torch.randn(size, size, dtype=DTYPES[settings.dtype], device=settings.device) for _ in range(2))
    out = torch.empty_like(a)

    def step() -> Tensor:
        for _ in range(products):
            torch.mm(a, b, out=out)
        return out[0, 0]

    return built(step, ())
