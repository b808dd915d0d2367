"""The scripts for Slurm and the jobs for Kubernetes: their logic with real trainings, their form by validators."""

from __future__ import annotations

import json
import signal
import subprocess

import kubernetes_validate
import pytest
from tests.clusters import (
    EXAMPLES,
    ROOT,
    TENSORFLOW,
    TORCH,
    Slurm,
    free_port,
    objects,
    pod_command,
    program,
    start_pod,
    wait_for_steps,
)

from common.imagenet import main as imagenet

SCRIPTS = ["torch.sbatch", "tensorflow.sbatch"]
JOBS = ["vit-gpus.yaml", "keras.yaml"]
GAUDI = "--dataset folder --pretrained_dir none --device cpu --img_size 32 --patches_size 8 --hidden_size 32"
GAUDI += " --num_hidden_layers 2 --num_attention_heads 2 --mlp_dim 64 --train_batch_size 16 --warmup_steps 2"
GAUDI += " --gradient_accumulation_steps 1 --eval_every 0 --dataloader_workers 0 --log_every 1 --tensorboard false"
GAUDI += " --num_steps 200"
IPU = "--num-labels 10 --pretrained-checkpoint none --hidden-size 16 --num-hidden-layers 4 --num-attention-heads 2"
IPU += " --mlp-dim 16 --layers-per-ipu 1 1 1 1 --image-size 32 --micro-batch-size 4 --gradient-accumulation 7"
IPU += " --device-iterations 2 --training-steps 40 --dataloader-workers 0 --log-every 1 --tensorboard false"
IPU += " --evaluate false"
KERAS = "--weights none --device CPU --image_size 32 --patch_size 8 --hidden_size 16 --num_layers 1 --num_heads 2"
KERAS += " --mlp_dim 16 --batch_size 16 --grad_accum_steps 2 --log_every 1 --warmup_steps 4 --validation_steps 0"
KERAS += " --epochs 4 --steps_per_epoch 100"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The digits in the layouts of ImageNet and of TFRecord shards."""
    folder = tmp_path_factory.mktemp("data")
    imagenet(["sample", str(folder), "--format", "all"])
    return folder


def steps(run):
    """Steps or updates that the history lists, in its order."""
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["split"] == "train"]


def finish(process):
    output = process.communicate(timeout=240)[0]
    return process.returncode, output


def saved_and_resumed(job, run, total, *words):
    """Slurm's warning, when the run has begun; then the start that follows the requeue."""
    target, name = job.options["signal"].split("@")[0].split(":")
    assert target == "B"  # the script alone is signalled
    first = job.start(*words)
    wait_for_steps(run / "history.jsonl", 3, first)
    first.send_signal(getattr(signal, f"SIG{name}"))
    status, output = finish(first)
    assert (status, job.requeued) == (75, 1), output
    done = steps(run)
    assert done == list(range(1, len(done) + 1))
    assert 3 <= len(done) < total
    status, output = finish(job.start(*words))
    assert (status, job.requeued) == (0, 1), output
    assert steps(run) == list(range(1, total + 1))


def test_a_torch_app_saves_goes_back_into_the_queue_and_resumes(sample, tmp_path):
    """Two nodes of one process each, the Gaudi app."""
    job = Slurm(tmp_path, "torch.sbatch", "vit_pytorch_gaudi", nodes="2", ntasks_per_node="1")
    place = ["--name", "run", "--output_dir", tmp_path, "--data_path", sample / "imagenet1k"]
    saved_and_resumed(job, tmp_path / "run", 200, "train.py", *place, *GAUDI.split())
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["batch"]["cards"] == 2


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("ends_with", "requeued"), [(75, 1), (1, 0), (0, 0)])
def test_only_a_saved_run_that_slurm_warned_goes_back(tmp_path, script, ends_with, requeued):
    job = Slurm(tmp_path, script, "vit_pytorch_ipu", nodes="1", ntasks_per_node="1")
    stand_in = f"#!/bin/bash\ntrap 'exit {ends_with}' USR1\necho ready\nfor _ in {{1..600}}; do sleep 0.1; done\n"
    for name in ("python", "mpirun"):
        program(tmp_path / "environment" / "bin" / name, stand_in)
    places = {"ENVIRONMENT": str(tmp_path / "environment"), "PYTHON": str(tmp_path / "environment" / "bin" / "python")}
    process = job.start("first", "second", **places)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == ends_with
    assert job.requeued == requeued


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_saved_without_a_warning_stays_out_of_the_queue(tmp_path, script):
    """As after scancel, which signals the processes and not the script."""
    job = Slurm(tmp_path, script, "vit_pytorch_ipu", nodes="1", ntasks_per_node="1")
    for name in ("python", "mpirun"):
        program(tmp_path / "environment" / "bin" / name, "#!/bin/bash\nexit 75\n")
    places = {"ENVIRONMENT": str(tmp_path / "environment"), "PYTHON": str(tmp_path / "environment" / "bin" / "python")}
    assert finish(job.start("first", "second", **places))[0] == 75
    assert job.requeued == 0


def test_the_places_of_the_processes(tmp_path):
    """Three nodes of two GPUs: what torchrun would say, and each task's share of the cores."""
    job = Slurm(tmp_path, "torch.sbatch", "vit_pytorch_ipu", nodes="3")
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SRUN_CPUS_PER_TASK"
    shown = " ".join(f"${name}" for name in names.split())
    program(tmp_path / "python", f'#!/bin/bash\necho "{shown} $*"\n')
    status, output = finish(job.start("finetune.py", "--config", "a b", PYTHON=str(tmp_path / "python")))
    assert status == 0
    port = 20000 + int(job.job)
    places = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]
    expected = [f"{r} 6 {local} 2 127.0.0.1 {port} 8 finetune.py --config a b --resume" for r, local in places]
    assert sorted(output.splitlines()) == expected


def test_what_mpirun_is_told(tmp_path):
    """The hosts in the order of the ranks, which --distributed makes TF_CONFIG of on GPUs."""
    job = Slurm(tmp_path, "tensorflow.sbatch", "vit_tensorflow_gaudi", nodes="3")
    program(tmp_path / "bin" / "mpirun", '#!/bin/bash\necho "$MULTI_HLS_IPS $*"\n')
    status, output = finish(job.start("a run", "--dtype", "bf16", ENVIRONMENT=str(tmp_path)))
    told = "127.0.0.1,127.0.0.2,127.0.0.3 -np 6 --map-by ppr:2:node --bind-to none"
    words = "train.py --distributed --dtype bf16 --output a run --resume_from_checkpoint_path a run"
    assert (status, output) == (0, f"{told} {tmp_path}/bin/python {words}\n")
    status, output = finish(job.start(ENVIRONMENT=str(tmp_path)))
    assert status == 1
    assert "the first word is the run folder" in output


@pytest.fixture(scope="module")
def records(sample):
    """TFRecord shards of the digits."""
    folder = sample / "tf_records"
    words = ["preprocess_imagenet.py", "--raw_data_dir", sample / "imagenet1k", "--local_scratch_dir", folder]
    words += ["--train_shards", "2", "--validation_shards", "1", "--limit", "200", "--workers", "1"]
    subprocess.run(
        [TENSORFLOW / "python", *map(str, words)],
        cwd=ROOT / "vit_tensorflow_gaudi",
        check=True,
        capture_output=True,
        text=True,
    )
    return folder


def test_the_keras_app_saves_goes_back_into_the_queue_and_resumes(records, tmp_path, monkeypatch):
    """Two processes of the real mpirun on one node, which knows nothing of Slurm."""
    for name, value in {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_ras": "^slurm",
        "PRTE_MCA_plm": "^slurm",
    }.items():
        monkeypatch.setenv(name, value)
    job = Slurm(tmp_path, "tensorflow.sbatch", "vit_tensorflow_gaudi", nodes="1", ntasks_per_node="2")
    saved_and_resumed(job, tmp_path / "run", 200, tmp_path / "run", "--dataset", records, *KERAS.split())


def test_the_pods_of_an_indexed_job_train_together_save_and_resume(sample, tmp_path):
    """SIGTERM to one pod, as when its node is drained: both save; the Job starts both again."""
    job = objects("vit-gpus.yaml")[1]
    run, port = tmp_path / "vit", free_port()

    def start():
        places = {"/data/imagenet1k": sample / "imagenet1k", "/output/vit": run, "vit-0.vit": "127.0.0.1"}
        places.update({"--nproc-per-node=2": "--nproc-per-node=1", "=29500": f"={port}"})
        commands = [pod_command(job, index, places) for index in range(job["spec"]["completions"])]
        return [start_pod([*words, *IPU.split()], folder, TORCH) for words, folder in commands]

    pods = start()
    wait_for_steps(run / "history.jsonl", 3, pods[0])
    pods[1].send_signal(signal.SIGTERM)
    ended = [finish(pod) for pod in pods]
    assert all(status == 1 for status, _ in ended), ended
    done = steps(run)
    assert 3 <= len(done) < 40
    assert (run / "checkpoints" / f"step-{done[-1]}" / "manifest.json").is_file()
    ended = [finish(pod) for pod in start()]
    assert all(status == 0 for status, _ in ended), ended
    assert steps(run) == list(range(1, 41))
    assert json.loads((run / "recipe.json").read_text())["processes"] == 2


def test_the_pod_of_the_keras_job_saves_and_resumes(records, tmp_path):
    (job,) = objects("keras.yaml")
    run = tmp_path / "keras"
    words, folder = pod_command(job, 0, {"/data/tf_records": records, "/output/keras": run})
    words += KERAS.split()
    pod = start_pod(words, folder, TENSORFLOW)
    wait_for_steps(run / "history.jsonl", 3, pod)
    pod.send_signal(signal.SIGTERM)
    status, output = finish(pod)
    ignored = job["spec"]["podFailurePolicy"]["rules"][1]
    assert ignored["action"] == "Ignore"
    assert [status] == ignored["onExitCodes"]["values"], output
    assert 3 <= len(steps(run)) < 200
    status, output = finish(start_pod(words, folder, TENSORFLOW))
    assert status == 0, output
    assert steps(run) == list(range(1, 201))
    status, _ = finish(start_pod([*words, "--no_such_flag"], folder, TENSORFLOW))
    assert [status] == job["spec"]["podFailurePolicy"]["rules"][2]["onExitCodes"]["values"]


@pytest.mark.parametrize("name", JOBS)
def test_kubernetes_takes_the_jobs(name):
    for each in objects(name):
        kubernetes_validate.validate(each, "1.37.0", strict=True)
    job = objects(name)[-1]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy asks for
    requested, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requested["memory"] == limits["memory"]


def test_the_pods_find_the_first_one():
    service, job = objects("vit-gpus.yaml")
    spec = job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["subdomain"] == service["metadata"]["name"]
    args = spec["containers"][0]["args"]
    assert f"--master-addr={job['metadata']['name']}-0.{service['metadata']['name']}" in args
    assert f"--nnodes={job['spec']['completions']}" in args
    assert job["spec"]["parallelism"] == job["spec"]["completions"]  # they wait for each other
    gpus = spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in args
    patience = next(int(word.split("=")[1]) for word in args if word.startswith("--shutdown-timeout="))
    assert patience < spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_style_of_the_scripts(script):
    done = subprocess.run([TORCH / "shellcheck", EXAMPLES / "slurm" / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "set -euo pipefail" in (EXAMPLES / "slurm" / script).read_text()
