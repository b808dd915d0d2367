"""Exact evaluation: every sample of the validation split once, over any number of processes."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Optional, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipu.loaders import evaluation_loader
from ipu.poptorch_options import inference_options, replicas_of_inference
from ipu.program import Program
from poptorch_host.backend import poptorch
from run import distributed
from run.sampling import EvaluationStream, Samples
from run.signals import StopOnSignal


class Score(NamedTuple):
    """Result of an evaluation: mean loss, number of samples; of a classifier also shares of samples from 0 to 1."""

    loss: float
    samples: int
    top1: Optional[float] = None
    top5: Optional[float] = None

    @property
    def metric(self) -> float:
        """What says which of two checkpoints is better: higher is."""
        return -self.loss if self.top1 is None else self.top1


class EvaluatedData(Samples, Protocol):
    """A data set that counts its unreadable images."""

    def check_bad_images(self) -> int:
        """How many there are so far; UserError above the tolerated share."""


def count(logits: Tensor, labels: Tensor) -> List[float]:
    """[samples, summed cross-entropy, top-1 hits, top-5 hits] of a batch; samples labelled -1 are padding.

    Args:
        logits: (B, C).
        labels: (B,), integers.
    """
    kept = labels >= 0
    logits, labels = logits[kept].float(), labels[kept].long()
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return [float(len(labels)), float(loss), float(best[:, :1].sum()), float(best.sum())]


class Evaluator:
    """Evaluates a model as it is now, also between two steps of its training.

    Args:
        program: how the model is run; its device iterations and replicas are those of inference.
        model: images → what `counted` takes; in training or not, it comes back as it was.
        data: validation split.
        stop: when it is requested, an evaluation is given up.
        counted: (output, labels) of a batch, samples labelled -1 being padding → number of samples and the sums over
            them of what `Score` averages, in its order.
        takes_labels: the model takes images and labels.
    """

    def __init__(
        self,
        program: Program,
        model: nn.Module,
        data: EvaluatedData,
        stop: Optional[StopOnSignal] = None,
        counted: Callable[[Tensor, Tensor], List[float]] = count,
        takes_labels: bool = False,
    ) -> None:
        self.program, self.model, self.data, self.stop, self.counted = program, model, data, stop, counted
        self.takes_labels = takes_labels
        self.processes = distributed.world_size()
        iterations = program.device_iterations
        self.ipu_options = inference_options(program, device_iterations=iterations, processes=self.processes)
        self.executor: Any = poptorch.inferenceModel(model, self.ipu_options)
        batch = self.ipu_options.device_iterations * program.micro_batch_size * replicas_of_inference()
        self.stream = EvaluationStream(data, multiple=batch, shard=(distributed.rank(), self.processes))

    def __call__(self) -> Optional[Score]:
        """Score over the samples of all processes; None if any of them was asked to stop meanwhile.

        Raises:
            UserError: more images than tolerated can't be decoded.
        """
        training = self.model.training
        totals = torch.zeros(0, dtype=torch.float64)
        # A loader draws a seed: training's random numbers must not depend on when evaluations happen.
        with torch.random.fork_rng(devices=[]):
            self.model.eval()
            for images, labels in evaluation_loader(self.program, self.ipu_options, self.stream, self.processes):
                if self._stopping():
                    break
                output = self.executor(images, labels) if self.takes_labels else self.executor(images)
                counts = torch.tensor(self.counted(output, labels), dtype=torch.float64)
                totals = totals + counts if len(totals) else counts
            self.model.train(training)
        (stopped,) = distributed.all_reduce_sum([float(self._stopping())])
        if stopped:
            return None
        samples, *sums = distributed.all_reduce_sum(totals.tolist())
        self.data.check_bad_images()
        loss, *shares = (value / samples for value in sums)
        return Score(loss, int(samples), *shares)

    def _stopping(self) -> bool:
        return self.stop is not None and self.stop.requested
