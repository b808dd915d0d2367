"""A small Swin learns 96 images by heart, 6 per micro-batch, 16 of these per update: python -m pytest swin_test.py."""

from __future__ import annotations

import torch

from models import create_model
from models.supervised import Supervised
from optimization import create_optimizer
from options import TrainOptions
from poptorch_host.backend import poptorch

IMAGES, MICRO_BATCH, STEPS = 96, 6, 45
SIZES = {"image_size": 32, "window_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 10}


class TestSWIN:
    """The whole way from uint8 images through PopTorch to the update."""

    def test_swin_model(self) -> None:
        """The loss falls from ln 10 to below 0.1."""
        torch.manual_seed(0)
        images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
        labels = torch.arange(IMAGES) % 10
        network = create_model("swin_tiny_patch4_window7_224", **SIZES)
        model = Supervised(network.train(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        settings = TrainOptions(config="test", base_lr=2e-3, weight_decay=0.0, loss_scaling=1.0)
        options = poptorch.Options()
        options.Training.gradientAccumulation(IMAGES // MICRO_BATCH)
        options.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.Mean)
        options.outputMode(poptorch.OutputMode.All)
        executor = poptorch.trainingModel(model, options, create_optimizer(model, settings))
        losses = [float(executor(images, labels)[0].mean()) for _ in range(STEPS)]
        assert abs(losses[0] - 2.3026) < 0.1
        assert losses[-1] < 0.1
        executor.destroy()
