"""run_vit.sh with the real mpirun: its processes train together, stop on request and go on."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import train
from tests import stand_ins
from tests.npz_files import google_arrays
from tests.scripts import APP, environment, records, tiny
from tests.stand_ins import TOOLS, launch

RECIPE = ["--num_steps", 40, "--global_batch_size", 48, "--hidden_dropout_prob", 0, "--autocast", "false"]
PLACE = """
import json, os, sys
sys.path.insert(0, sys.argv[2])
from run.launcher import place
here = [*place(), os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"), sorted(os.sched_getaffinity(0))]
open(os.path.join(sys.argv[1], str(place().rank)), "w").write(json.dumps(here))
"""
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.fixture
def hosts(tmp_path):
    """(folder of an ssh that stays here, hostfile of two hosts of one process each)."""
    stand_ins.shell(tmp_path / "bin", "ssh", stand_ins.SSH.format(folder=tmp_path))
    (tmp_path / "hostfile").write_text("w-0.w.space.svc slots=1\nw-1.w.space.svc slots=1\n")
    return tmp_path / "bin", tmp_path / "hostfile"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def places(folder):
    return [json.loads((folder / str(rank)).read_text()) for rank in range(2)]


def test_both_launchers_give_the_processes_their_places(tmp_path):
    script = tmp_path / "place.py"
    script.write_text(PLACE)
    commands = {
        "mpirun": [str(TOOLS / "mpirun"), "-np", "2", "--map-by", ":oversubscribe", sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    }
    for launcher, command in commands.items():
        (tmp_path / launcher).mkdir()
        done = subprocess.run(
            [*command, str(script), str(tmp_path / launcher), str(APP)],
            env=environment(**AS_ROOT),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert [here[:4] for here in places(tmp_path / launcher)] == [[rank, 2, rank, launcher] for rank in range(2)]


def test_places_on_two_hosts_and_the_cores_of_one(hosts, tmp_path):
    """train.py's place is taken by a script: MASTER_ADDR reaches the other hosts, full names reach ssh."""
    bin, hostfile = hosts
    stand_in = tmp_path / "app"
    stand_in.mkdir()
    for name in ("run_vit.sh", "scripts", "run"):
        (stand_in / name).symlink_to(APP / name)
    (stand_in / "train.py").write_text(
        PLACE.replace("sys.argv[1]", repr(str(tmp_path))).replace("sys.argv[2]", repr(str(APP)))
    )
    given = ["--", "--output_dir", tmp_path / "out"]
    done = launch(bin, stand_in / "run_vit.sh", "--hostfile", hostfile, *given, MASTER_ADDR="127.0.0.1")
    assert (done.returncode, done.stderr) == (0, "")
    found = places(tmp_path)
    assert [here[:4] for here in found] == [[0, 2, 0, "mpirun"], [1, 2, 0, "mpirun"]]
    assert {tuple(here[4:6]) for here in found} == {("127.0.0.1", "15566")}
    called = (tmp_path / "ssh.log").read_text()
    assert all(f" w-{rank}.w.space.svc " in called for rank in range(2))
    if len(os.sched_getaffinity(0)) >= 2:  # on one host the two share its cores
        done = launch(bin, stand_in / "run_vit.sh", "--cards", "2", "--pe", "1", *given)
        assert done.returncode == 0
        first, second = (set(here[6]) for here in places(tmp_path))
        assert not first & second


def test_two_hosts_stop_and_go_on_as_one_process_would(digits, hosts, tmp_path):
    """SIGTERM to the script: a checkpoint, 75; then to the end, with the losses of one process that nobody stopped."""
    bin, hostfile = hosts
    train.main(tiny(digits, tmp_path / "one", *RECIPE))
    given = [str(APP / "run_vit.sh"), "--hostfile", str(hostfile), "--", *tiny(digits, tmp_path / "two", *RECIPE)]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **AS_ROOT}
    path = os.pathsep.join([str(bin), str(TOOLS), "/usr/bin", "/bin"])
    command = ["bash", *given]
    with subprocess.Popen(
        command, env=environment(PATH=path, **variables), stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if "Step 5/40" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 75, rest
    done = [record["step"] for record in records(tmp_path / "two", "train")]
    assert 5 <= len(done) < 40
    assert (tmp_path / "two" / "checkpoints" / f"step-{done[-1]}" / "manifest.json").is_file()
    again = launch(bin, "run_vit.sh", *given[1:], "--resume", **variables)
    assert again.returncode == 0, again.stdout
    losses = [[record["loss"] for record in records(tmp_path / run, "train")] for run in ("one", "two")]
    assert len(losses[0]) == 40
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert records(tmp_path / "two", "validation")[-1]["samples"] == 360
    log = (tmp_path / "two.log").read_text()
    assert log.count("# 2 x 1 processes") == 2
    assert "\r" not in log  # no progress bar, although mpirun gives its processes a terminal
    assert "Step 40/40" in log


def test_the_documents_command_scaled_down(digits, tmp_path):
    """Two processes at 384 pixels in bfloat16, from an .npz of 224 pixels; only sizes, counts and places are others."""
    for split in ("train", "validation"):
        for label in (digits / split).iterdir():
            (tmp_path / "data" / split / label.name).mkdir(parents=True)
            for image in sorted(label.iterdir())[:2]:
                (tmp_path / "data" / split / label.name / image.name).symlink_to(image)
    arrays = google_arrays(width=32, heads=2, mlp_width=64, depth=2, patch_size=16, tokens=197, classes=21)
    np.savez(tmp_path / "ViT-B_16.npz", **arrays)
    given = ["--data_path", tmp_path / "data", "--pretrained_dir", tmp_path / "ViT-B_16.npz", "--device", "cpu"]
    given += ["--output_dir", tmp_path / "output", "--num_steps", 4, "--eval_every", 2, "--log_every", 1]
    given += ["--hidden_size", 32, "--num_hidden_layers", 2, "--num_attention_heads", 2, "--mlp_dim", 64]
    given += ["--train_batch_size", 4, "--global_batch_size", 8, "--warmup_steps", 1, "--dataloader_workers", 0]
    done = launch(TOOLS, "run_vit.sh", "--cards", "2", "--", *given, MASTER_PORT=free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "output" / "imagenet1k_TF"
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["batch"] == {"micro": 2, "accumulation": 2, "cards": 2}
    assert recipe["precision"].startswith("bfloat16")
    assert [record["samples"] for record in records(run, "validation")] == [20, 20]
    assert all(np.isfinite(record["loss"]) for record in records(run, "train"))
    assert (run / "checkpoints" / "step-4" / "manifest.json").is_file()
    log = (tmp_path / "output" / "imagenet1k_TF.log").read_text()
    assert "img_size                      384 pixels" in log
    assert "resized embeddings.positions 14×14 → 24×24" in log
