import torch

_generator = torch.Generator()


def manual_seed(seed):
    _generator.manual_seed(seed)


def get_rng_state():
    return _generator.get_state()


def set_rng_state(state):
    _generator.set_state(state)
