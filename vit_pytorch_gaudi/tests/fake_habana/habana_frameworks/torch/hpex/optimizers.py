import torch

from habana_frameworks.torch import LAZY, record


class FusedSGD(torch.optim.SGD):
    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        assert LAZY, "FusedSGD belongs to lazy mode"
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, foreach=False)
        record("FusedSGD")

    def step(self, closure=None):
        record("FusedSGD.step")
        return super().step(closure)


class FusedAdamW(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, bias_correction=True):
        assert LAZY, "FusedAdamW belongs to lazy mode"
        super().__init__(params, lr, betas, eps, weight_decay, foreach=False)
        record("FusedAdamW")
