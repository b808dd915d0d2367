"""Optimizer state dealt out to two processes: the same weights and state as in one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import poptorch_host.optim as optim
from poptorch_host.sharding import partition
from poptorch_host.updates import DeviceOptimizer

SHAPES = {"a": (5, 7), "b": (20,), "c": (3, 3), "d": (1,), "e": (17,)}
HALF = torch.float16
CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "adamw": (optim.AdamW, {"lr": 0.1}),
    "adamw, limited": (optim.AdamW, {"lr": 0.1, "max_grad_norm": 0.5}),
    "sgd, limited": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "max_grad_norm": 1.0}),
    "lamb": (optim.LAMB, {"lr": 0.1}),
    "rmsprop": (optim.RMSprop, {"lr": 0.1, "centered": True}),
}


def make(case: str, dtype: torch.dtype = torch.float32, **arguments: Any) -> tuple[DeviceOptimizer, dict[str, Any]]:
    cls, values = CASES[case]
    random = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES.values()]
    # "c" stays float32, as a normalisation layer's weight may: transfers must cope with two types
    weights = {n: p.detach().to(torch.float32 if n == "c" else dtype) for n, p in zip(SHAPES, parameters)}
    optimizer = cls([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}], **values)
    names = {id(p): name for name, p in zip(SHAPES, parameters)}
    return DeviceOptimizer(optimizer, weights, names, **arguments), weights


def train(device: DeviceOptimizer, weights: dict[str, Any], steps: range) -> None:
    for step in steps:
        random = torch.Generator().manual_seed(1 + step)
        gradients = {n: torch.randn(w.shape, generator=random).to(w.dtype) for n, w in weights.items()}
        found_inf = torch.tensor(float(step == 2))
        device.step(gradients, loss_scale=1.0, divisor=1, running=False, found_inf=found_inf)


def run_case(case: str) -> dict[str, Any]:
    """Train sharded, and once more through a saved state; return what this rank has in the end."""
    whole, weights = make(case, shard=True)
    train(whole, weights, range(6))
    first, resumed_weights = make(case, shard=True)
    train(first, resumed_weights, range(3))
    state = first.state()
    resumed, again = make(case, shard=True)
    for name, weight in again.items():
        weight.copy_(resumed_weights[name])
    resumed.load_state(state)
    train(resumed, again, range(3, 6))
    return {
        "weights": weights,
        "state": whole.state(),
        "resumed": {**again, **resumed.state()},
        "own": sum(tensor.numel() for slots in whole._slots.values() for tensor in slots.values()),
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["POPTORCH_HOST_NUMERICS"] = "fast"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {case: run_case(case) for case in CASES}
    os.environ["POPTORCH_HOST_NUMERICS"] = "exact"
    torch.manual_seed(rank)
    device, weights = make("adamw", HALF, stochastic_rounding=True)
    train(device, weights, range(6))
    results["stochastic"] = {**weights, **device.state()}
    torch.save(results, Path(folder) / f"rank{rank}.pt")
    del device
    dist.barrier()
    dist.destroy_process_group()
    gc.collect()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-W", "error", __file__, str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("case", CASES)
def test_same_as_unsharded(case: str, ranks: list[dict[str, Any]]) -> None:
    device, weights = make(case)
    train(device, weights, range(6))
    for rank in ranks:
        assert_same(rank[case]["weights"], weights)
        assert_same(rank[case]["state"], device.state())
        assert_same(rank[case]["resumed"], {**weights, **device.state()})


@pytest.mark.parametrize("case", CASES)
def test_each_rank_holds_about_half(case: str, ranks: list[dict[str, Any]]) -> None:
    device, _ = make(case)
    whole = sum(tensor.numel() for tensor in device.state().values())
    own = [rank[case]["own"] for rank in ranks]
    assert sum(own) == whole
    assert max(own) <= 0.55 * whole


def test_stochastic_rounding_keeps_processes_together(ranks: list[dict[str, Any]]) -> None:
    """Differently seeded processes would round apart if each updated every weight."""
    assert_same(ranks[0]["stochastic"], ranks[1]["stochastic"])
    assert ranks[0]["stochastic"]["a"].dtype is HALF
    assert ranks[0]["stochastic"]["c"].dtype is torch.float32


def test_partition() -> None:
    shares = partition({"a": 7, "b": 5, "c": 4, "d": 3, "e": 1}, 2)
    assert shares == [["a", "d"], ["b", "c", "e"]]
    assert partition({"a": 1}, 3) == [["a"], [], []]


if __name__ == "__main__":
    worker(int(sys.argv[2]), sys.argv[1])
