"""Devices: chosen and explained, Habana's order, the recipe cache, threads."""

import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow as tf

import device
import distributed
from errors import UsageError, UserError
from launcher import Place
from options import TrainOptions

ALONE, SECOND = Place(0, 1, 0, 1, ""), Place(1, 2, 1, 2, "mpirun")


@pytest.fixture
def habana(monkeypatch, tmp_path):
    """A stand-in for habana_frameworks that notes what it finds when it is loaded."""
    seen = []

    def load_habana_module():
        names = ("TF_HCCL_MEMORY_ALLOWANCE_MB", "TF_RECIPE_CACHE_PATH")
        seen.append(("load", {name: os.environ.get(name) for name in names}))
        seen.append(("policy", tf.keras.mixed_precision.global_policy().name))

    def strategy():
        seen.append(("strategy", None))
        return tf.distribute.get_strategy()

    modules = {"": {}, ".tensorflow": {"load_habana_module": load_habana_module}}
    modules[".tensorflow.distribute"] = {"HPUStrategy": strategy}
    for name, content in modules.items():
        module = types.ModuleType("habana_frameworks" + name)
        module.__dict__.update(content, __path__=[])
        module.__spec__ = types.SimpleNamespace(name="habana_frameworks" + name)
        monkeypatch.setitem(sys.modules, "habana_frameworks" + name, module)
    for name in ("TF_HCCL_MEMORY_ALLOWANCE_MB", "TF_RECIPE_CACHE_PATH"):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    yield seen
    tf.keras.mixed_precision.set_global_policy("float32")


def wanted(tmp_path, **changes):
    return replace(TrainOptions(), recipe_cache=str(tmp_path / "cache"), **changes)


def test_hpu_without_habana_is_one_sentence(attempt, digits, tmp_path):
    done = attempt("train.py", "--device", "HPU", "--dataset", digits, "--output", tmp_path / "run")
    assert done.status == 1
    assert done.error.startswith("error: --device HPU needs habana_frameworks.tensorflow")
    assert done.error.count("\n") == 1


def test_gpu_without_a_gpu_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match="TensorFlow sees no GPU"):
        device.choose("GPU")
    assert device.choose(None) == ("CPU", "there is neither HPU nor GPU")


def test_the_default_is_hpu_then_gpu(monkeypatch, habana):
    assert device.choose(None)[0] == "HPU"
    monkeypatch.delitem(sys.modules, "habana_frameworks")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    assert device.choose(None)[0] == "GPU"


def test_habana_is_loaded_after_policy_and_environment_and_before_the_strategy(monkeypatch, habana, tmp_path):
    monkeypatch.setattr(device, "place", lambda: SECOND)
    monkeypatch.setattr(distributed, "place", lambda: SECOND)
    monkeypatch.setattr(distributed, "communicator", lambda here: None)
    monkeypatch.setattr(distributed, "set_tf_config", lambda *_: habana.append(("TF_CONFIG", None)))
    device.set_up(wanted(tmp_path, dtype="bf16", distributed=True))
    assert [name for name, _ in habana] == ["load", "policy", "TF_CONFIG", "strategy"]
    environment = dict(habana)["load"]
    assert environment["TF_HCCL_MEMORY_ALLOWANCE_MB"] == "1000"
    assert environment["TF_RECIPE_CACHE_PATH"].startswith(str(tmp_path / "cache"))
    assert dict(habana)["policy"] == "mixed_bfloat16"


def test_one_card_needs_no_hccl_memory(habana, tmp_path):
    device._load_habana(wanted(tmp_path), ALONE)
    assert habana[0][1]["TF_HCCL_MEMORY_ALLOWANCE_MB"] is None


def test_the_recipe_cache_of_the_environment_wins_and_an_empty_one_disables(monkeypatch, habana, tmp_path):
    device._load_habana(replace(wanted(tmp_path), recipe_cache=""), ALONE)
    monkeypatch.setenv("TF_RECIPE_CACHE_PATH", "/elsewhere")
    device._load_habana(wanted(tmp_path, clear_recipe_cache=True), ALONE)
    found = [seen["TF_RECIPE_CACHE_PATH"] for name, seen in habana if name == "load"]
    assert found == [None, "/elsewhere"]
    assert not (tmp_path / "cache").exists()


def test_the_recipe_cache_never_removes_what_a_user_owns(monkeypatch, habana, tmp_path):
    folder = device.recipe_cache_folder(str(tmp_path / "cache"))
    folder.mkdir(parents=True)
    theirs = [tmp_path / "cache" / "thesis.tex", folder / "not-ours"]
    for file in theirs:
        file.touch()
    device._load_habana(wanted(tmp_path, clear_recipe_cache=True), ALONE)
    assert all(file.exists() for file in theirs)  # no marker of ours: kept, even in the folder of our name
    monkeypatch.delenv("TF_RECIPE_CACHE_PATH")
    (folder / "recipe").touch()
    device._load_habana(wanted(tmp_path), ALONE)
    assert (folder / "recipe").exists()
    monkeypatch.delenv("TF_RECIPE_CACHE_PATH")
    device._load_habana(wanted(tmp_path, clear_recipe_cache=True), ALONE)
    assert not (folder / "recipe").exists()
    assert theirs[0].exists()


def test_a_habana_library_that_does_not_load_is_one_sentence(monkeypatch, habana, tmp_path):
    monkeypatch.delattr(sys.modules["habana_frameworks.tensorflow"], "load_habana_module")
    with pytest.raises(UserError, match=r"habana_frameworks\.tensorflow can't be loaded"):
        device._load_habana(wanted(tmp_path), ALONE)


@pytest.mark.parametrize(
    ("allowed", "machine", "local_size", "wished", "count"),
    [(8, 8, 1, "", 8), (8, 8, 2, "", 4), (1, 8, 8, "", 1), (4, 8, 2, "", 4), (8, 8, 16, "", 1), (8, 8, 1, "3", 3)],
)
def test_threads_are_the_cores_over_the_ranks(monkeypatch, allowed, machine, local_size, wished, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert device.threads(Place(0, local_size, 0, local_size, "mpirun")) == count


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    with pytest.raises(UserError, match="2 processes share 1 GPUs"):
        device._take_gpu(SECOND)


def test_several_processes_need_the_flag_and_a_batch_that_they_can_share(monkeypatch):
    monkeypatch.setattr(distributed, "place", lambda: SECOND)
    with pytest.raises(UsageError, match="mpirun started 2 processes: give --distributed"):
        distributed.refuse_unasked(False)
    monkeypatch.setattr(device, "place", lambda: SECOND)
    with pytest.raises(UserError, match="--batch_size 33 is not a multiple of 2 workers"):
        device.set_up(replace(TrainOptions(), device="CPU", distributed=True, batch_size=33))


def test_nothing_imports_habana_or_mpi_at_the_top():
    for path in Path(device.__file__).parent.glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.startswith(("import habana", "from habana", "import mpi4py", "from mpi4py")), path
