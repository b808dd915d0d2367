"""The order of calls on an HPU, against a fake of Habana's packages that computes on the CPU. No HPU was there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

import device
import train
from device import open_device, set_environment
from options import parse_options
from run.errors import UserError
from supervised import Supervised
from tests.scripts import APP, environment, records, tiny
from tests.test_processes import finish, together

FAKE = APP / "tests" / "fake_habana"
STEP = ["forward", "mark_step", "backward", "mark_step"]


class Habana:
    def __init__(self, log):
        self.log = log

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def record(self, call):
        with open(self.log, "a") as log:
            log.write(f"{call}\n")

    def recorded(self, call, function):
        def told(*arguments, **more):
            self.record(call)
            return function(*arguments, **more)

        return told


def _forget():
    for name in [name for name in sys.modules if name.startswith("habana_frameworks")]:
        del sys.modules[name]


@pytest.fixture
def habana(tmp_path, monkeypatch):
    """The fake, installed and not imported yet; forward and backward passes are recorded beside its calls."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("FAKE_HABANA_LOG", str(tmp_path / "calls"))
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "")  # restored at the end
    monkeypatch.delenv("PT_HPU_LAZY_MODE")
    monkeypatch.setattr(device, "HPU", "cpu")
    _forget()
    fake = Habana(tmp_path / "calls")
    monkeypatch.setattr(Supervised, "forward", fake.recorded("forward", Supervised.forward))
    monkeypatch.setattr(torch.Tensor, "backward", fake.recorded("backward", torch.Tensor.backward))
    yield fake
    _forget()


def on_hpu(digits, folder, *more):
    few = ["--num_steps", 2, "--eval_batch_size", 360, "--hidden_dropout_prob", 0]
    return tiny(digits, folder, *few, "--device", "hpu", *more)


def test_the_whole_program_in_lazy_mode(digits, tmp_path):
    """A fresh process, where torch itself loads the packages as soon as it is imported, which need the environment."""
    arguments = on_hpu(digits, tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "tests.on_fake_hpu", *arguments],
        cwd=APP,
        env=environment(PYTHONPATH=str(FAKE), FAKE_HABANA_LOG=str(tmp_path / "calls")),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    update = ["mark_step"] * 4 + ["FusedSGD.step", "mark_step"]
    evaluation = ["mark_step"]
    expected = ["import in lazy mode", "FusedSGD", *update * 2, *evaluation]
    assert Habana(tmp_path / "calls").calls == expected
    assert "hpu (Gaudi), lazy mode; an HPU is there; SynapseAI 1.15" in done.stdout
    assert len(records(tmp_path / "run", "train")) == 2


def test_lazy_mode_marks_each_pass_and_update(habana, digits, tmp_path):
    train.main(on_hpu(digits, tmp_path / "run", "--mode", "lazy"))
    update = [*STEP * 2, "FusedSGD.step", "mark_step"]
    assert habana.calls == ["import in lazy mode", "FusedSGD", *update * 2, "forward", "mark_step"]


def test_eager_mode_has_neither_marks_nor_fused_optimizers(habana, digits, tmp_path):
    train.main(on_hpu(digits, tmp_path / "run", "--mode", "eager"))
    assert habana.calls == ["import in eager mode", *["forward", "backward"] * 4, "forward"]
    train.main(tiny(digits, tmp_path / "cpu", "--num_steps", 2, "--hidden_dropout_prob", 0))
    assert [r["loss"] for r in records(tmp_path / "run", "train")] == pytest.approx(
        [r["loss"] for r in records(tmp_path / "cpu", "train")], abs=1e-6
    )


def test_compile_mode_compiles_for_habanas_backend(habana, digits, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, backend: compiled.append((type(module), backend)) or module)
    train.main(on_hpu(digits, tmp_path / "run", "--mode", "compile"))
    assert compiled == [(Supervised, "hpu_backend")]
    assert habana.calls[0] == "import in eager mode"
    assert "mark_step" not in habana.calls


def test_two_cards_join_hccl_before_anything_is_exchanged_and_compile_wraps_ddp(habana, digits, tmp_path, monkeypatch):
    def compile(module, backend):
        habana.record(f"compile {type(module).__name__} for {backend}")
        return module

    monkeypatch.setattr(torch, "compile", compile)
    ddp = DistributedDataParallel.__init__
    monkeypatch.setattr(DistributedDataParallel, "__init__", habana.recorded("ddp", ddp))
    arguments = on_hpu(digits, tmp_path / "run", "--mode", "compile")
    statuses, logs = finish(together(2, arguments, tmp_path / "log"))
    assert statuses == [0, 0], logs
    calls = habana.calls
    for call in ("initialize_distributed_hpu", "hccl starts", "ddp", "compile DistributedDataParallel for hpu_backend"):
        assert calls.count(call) == 2, calls  # once on each card
    order = [calls.index(call) for call in ("initialize_distributed_hpu", "hccl starts", "ddp", "forward")]
    assert order == sorted(order)
    last = len(calls) - 1 - calls[::-1].index("ddp")
    assert calls.index("compile DistributedDataParallel for hpu_backend") > calls.index("ddp")
    assert last < len(calls) - 1 - calls[::-1].index("compile DistributedDataParallel for hpu_backend")


def test_adamw_has_a_fused_form_too(habana, digits, tmp_path):
    train.main(on_hpu(digits, tmp_path / "run", "--mode", "lazy", "--optimizer", "AdamW", "--num_steps", 1))
    assert "FusedAdamW" in habana.calls


def test_a_checkpoint_of_an_hpu_goes_on_on_a_cpu_and_back(habana, digits, tmp_path):
    recipe = ["--num_steps", 6, "--hidden_dropout_prob", 0, "--checkpoint_save_steps", 2, "--keep_checkpoints", 9]
    whole, there, back = tmp_path / "whole", tmp_path / "there", tmp_path / "back"
    train.main(on_hpu(digits, whole, "--mode", "lazy", *recipe))
    train.main(tiny(digits, there, *recipe, "--resume", whole / "checkpoints/step-2"))
    train.main(on_hpu(digits, back, "--mode", "lazy", *recipe, "--resume", there / "checkpoints/step-4"))
    first, second = (load_file(f / "checkpoints/step-6/state.safetensors") for f in (whole, back))
    assert first.keys() == second.keys()
    assert any("momentum_buffer" in name for name in first)
    for name in first:
        if not name.startswith("generators"):
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "variable", "lazy"),
    [
        ([], None, "1"),  # the fake is SynapseAI 1.15
        ([], "0", "0"),
        ([], "1", "1"),
        (["--mode", "eager"], "1", "0"),
        (["--mode", "compile"], None, "0"),
        (["--run_lazy_mode", "false"], "1", "0"),
        (["--run_lazy_mode", "true"], "0", "1"),
    ],
)
def test_mode(habana, monkeypatch, flags, variable, lazy):
    if variable:
        monkeypatch.setenv("PT_HPU_LAZY_MODE", variable)
    set_environment(parse_options(["--name", "x", "--device", "hpu", *flags]))
    assert os.environ["PT_HPU_LAZY_MODE"] == lazy


def test_later_software_is_not_lazy_by_default(habana, monkeypatch):
    monkeypatch.setattr(device.importlib.metadata, "version", lambda name: "1.22.1.6")
    assert device.hpu_mode(parse_options(["--name", "x"])).mode == "compile"


def test_packages_that_are_up_in_another_mode_are_refused(habana, monkeypatch):
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "1")
    import habana_frameworks.torch  # noqa: F401

    with pytest.raises(UserError, match="imported before its mode was settled: export PT_HPU_LAZY_MODE=0"):
        set_environment(parse_options(["--name", "x", "--device", "hpu", "--mode", "eager"]))


def test_packages_that_ignore_the_variable_are_found_out(habana, monkeypatch):
    monkeypatch.setenv("FAKE_HABANA_MODE", "lazy")
    options = parse_options(["--name", "x", "--device", "hpu", "--mode", "eager"])
    hpu = set_environment(options)
    with pytest.raises(UserError, match="came up in another mode"):
        open_device(options, hpu)


def test_without_a_card(habana, monkeypatch):
    monkeypatch.setenv("FAKE_HABANA_CARDS", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = parse_options(["--name", "x", "--mode", "eager"])
    hpu = set_environment(options)
    assert open_device(options, hpu).reason == "Habana's packages are installed but no HPU is there, no GPU"
    for flags in (["--mode", "lazy"], ["--run_lazy_mode", "true"]):
        with pytest.raises(UserError, match="lazy mode needs an HPU: Habana's packages are installed but no HPU is"):
            open_device(parse_options(["--name", "x", *flags]), hpu)
    with pytest.raises(UserError, match="no HPU is there; check `hl-smi`"):
        open_device(parse_options(["--name", "x", "--device", "hpu", "--mode", "eager"]), hpu)


def test_on_several_hosts_somebody_has_to_say_where_they_meet(habana, monkeypatch):
    for name, value in {"SIZE": "16", "RANK": "9", "LOCAL_RANK": "1", "LOCAL_SIZE": "8"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    options = parse_options(["--name", "x", "--device", "hpu"])
    hpu = set_environment(options)
    with pytest.raises(UserError, match="export MASTER_ADDR"):
        open_device(options, hpu)


def test_habanas_packages_are_named_in_one_module_only():
    sources = [path for path in Path(APP).rglob("*.py") if "tests" not in path.parts and "run" not in path.parts]
    assert [path.name for path in sources if "habana_frameworks" in path.read_text()] == ["device.py"]


def test_devices_without_habana(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device(parse_options(["--name", "x"])).reason == "no HPU, no GPU"
    assert open_device(parse_options(["--name", "x", "--use_hpu", "0"])).reason == "asked for"
    with pytest.raises(UserError, match="habana_frameworks, which is not installed"):
        set_environment(parse_options(["--name", "x", "--device", "hpu"]))
    with pytest.raises(UserError, match="finds no GPU"):
        open_device(parse_options(["--name", "x", "--device", "cuda"]))
