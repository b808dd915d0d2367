"""PopTorch's optimizers, with the arguments that its documentation lists."""

import torch


class _Optimizer(torch.optim.Optimizer):
    def __init__(self, params, **settings):
        super().__init__(params, settings)


class SGD(_Optimizer):
    def __init__(
        self,
        params,
        lr,
        momentum=None,
        weight_decay=None,
        loss_scaling=None,
        use_combined_accum=None,
        accum_type=None,
        velocity_accum_type=None,
    ):
        super().__init__(params, lr=lr)


class Adam(_Optimizer):
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        loss_scaling=None,
        accum_type=None,
        first_order_momentum_accum_type=None,
        second_order_momentum_accum_type=None,
    ):
        super().__init__(params, lr=lr)
