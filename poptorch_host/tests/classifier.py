"""A small classifier and the training executor of it that several tests use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import poptorch_host as poptorch


class Model(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.drop = nn.Dropout(dropout)
        self.note = "mine"

    def forward(self, x, y, scale=1.0):
        out = self.drop(self.layer(x)) * scale
        return out, F.cross_entropy(out, y)


X, Y = torch.linspace(-1, 1, 12).view(4, 3), torch.tensor([0, 0, 1, 1])


def make(model=None, options=None, **optimizer):
    model = model or Model()
    adam = poptorch.optim.AdamW(model.parameters(), **{"lr": 0.1, **optimizer})
    return model, adam, poptorch.trainingModel(model, options, adam)


def steps(executor, count):
    return [executor(X, Y)[1].item() for _ in range(count)]
