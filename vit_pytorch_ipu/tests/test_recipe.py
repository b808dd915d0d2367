import os
from types import SimpleNamespace

import pytest
import torch

from ipu.loaders import workers
from ipu_options import create_program, training_options
from options import FinetuneOptions
from run.errors import UsageError
from training import describe_run

ONE_PARAMETER = torch.nn.Linear(1, 1, bias=False)


def options(**changes):
    return FinetuneOptions(config="test", **changes)


def derive(options, samples, model, processes):
    return describe_run(options, create_program(options), samples, model, processes)


def test_the_documents_cifar_numbers():
    given = options(micro_batch_size=17, gradient_accumulation=128, replication_factor=4, training_steps=2000)
    recipe = derive(given, 50_000, ONE_PARAMETER, processes=1)
    assert (recipe.global_batch, recipe.samples_per_step, recipe.updates_per_epoch) == (8704, 8704, 5)
    assert (recipe.updates, recipe.epochs, recipe.parameters) == (2000, 400.0, 1)


def test_the_documents_imagenet_numbers():
    given = options(
        micro_batch_size=17, gradient_accumulation=30, replication_factor=4, device_iterations=8, training_steps=625
    )
    recipe = derive(given, 1_281_167, ONE_PARAMETER, processes=4)
    assert (recipe.global_batch, recipe.samples_per_step, recipe.updates) == (2040, 16320, 5000)
    assert recipe.epochs == pytest.approx(7.96, abs=0.005)


def test_epochs_replace_steps_and_are_rounded_up_to_host_steps():
    given = options(micro_batch_size=10, device_iterations=4, epochs=3, training_steps=7)
    recipe = derive(given, 105, ONE_PARAMETER, processes=1)
    assert (recipe.updates_per_epoch, recipe.steps, recipe.updates) == (10, 8, 32)


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"training_steps": 1, "replication_factor": 3}, 2, "3 replicas can't be dealt out to 2 processes"),
        ({"training_steps": 1, "micro_batch_size": 101}, 1, "100 samples and one update takes 101"),
        ({}, 1, "give its steps or epochs"),
    ],
)
def test_impossible_runs_are_refused(changes, processes, message):
    with pytest.raises(UsageError, match=message):
        derive(options(**changes), 100, ONE_PARAMETER, processes=processes)


@pytest.mark.parametrize(
    ("cores_of_host", "processes_here", "expected"),
    [
        (12, 4, 2),  # all see the same 12 cores
        (48, 4, 11),  # each is bound to its own
        (12, 1, 11),
    ],
)
def test_loading_processes_share_the_cores_of_their_own_host(monkeypatch, cores_of_host, processes_here, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.setattr(os, "cpu_count", lambda: cores_of_host)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes_here))
    assert workers(SimpleNamespace(workers=None), 8 * processes_here) == expected
    assert workers(SimpleNamespace(workers=0), 8) == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("POPTORCH_HOST_DEVICE", "gpu", "is 'gpu': use cpu, cuda or cuda:N"),
        ("POPTORCH_HOST_NUMERICS", "exactly", "is 'exactly': use fast or exact"),
    ],
)
def test_a_variable_that_says_nothing_is_told(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=said):
        derive(options(training_steps=1), 100, ONE_PARAMETER, processes=1)
    with pytest.raises(UsageError, match=said):
        training_options(options(training_steps=1))
