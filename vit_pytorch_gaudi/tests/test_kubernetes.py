"""mpijob.py and the two jobs it made: what Kubernetes and the MPI operator take, and what the pods do."""

import copy
import json
import os
import shlex
import socket
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.scripts import APP

KUBERNETES = "1.37.0"
SCHEMA = json.loads((APP / "tests" / "mpijob.schema.json").read_text())
COMMITTED = {"vit_8cards.yaml": [], "vit_16cards.yaml": ["--nodes", "2"]}
PATHS = ("mydir", "dataset", "pretrained", "output")


def check(job):
    """Validate the job's fields, and its pod templates as Kubernetes' own kind, unknown fields being errors."""
    jsonschema.Draft202012Validator(SCHEMA).validate(job)
    for replicas in job["spec"]["mpiReplicaSpecs"].values():
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": replicas["template"]}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


@pytest.fixture
def made(attempt):
    """The job that mpijob.py prints for some options."""

    def made(*words):
        done = attempt("mpijob.py", *words)
        assert done.status == 0
        assert all(line.startswith("warning: ") for line in done.error.splitlines()), done.error
        job = yaml.safe_load(done.output)
        check(job)
        return job

    return made


def pods(job):
    replicas = job["spec"]["mpiReplicaSpecs"]
    return replicas["Launcher"]["template"]["spec"], replicas["Worker"]["template"]["spec"]


def containers(job):
    return [pod["containers"][0] for pod in pods(job)]


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_jobs_are_what_the_template_gives(attempt, name):
    assert attempt("mpijob.py", *COMMITTED[name]).output == (APP / name).read_text()


def test_sixteen_cards_differ_from_eight_in_name_and_nodes(made):
    """The document's rule; the global batch is run_vit.sh's and the same."""
    eight, sixteen = made(), made("--nodes", "2")
    assert sixteen["metadata"]["name"] == "yourusername-vit-16cards"
    assert sixteen["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] == 2
    assert containers(sixteen)[0]["env"] == [{"name": "NUM_NODES", "value": "2"}]
    sixteen["metadata"]["name"] = eight["metadata"]["name"]
    sixteen["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = 1
    containers(sixteen)[0]["env"][0]["value"] = "1"
    assert sixteen == eight


def test_the_documents_values(made):
    """Of vit_8cards.yaml in the tutorial."""
    job = made()
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert job["metadata"] == {"name": "yourusername-vit-8cards", "namespace": "yourusername-restricted"}
    assert job["spec"]["slotsPerWorker"] == 8
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    launcher, worker = containers(job)
    assert launcher["image"] == worker["image"]
    assert launcher["image"].endswith("/1.15.1/ubuntu22.04/habanalabs/pytorch-installer-2.2.0:latest")
    assert launcher["resources"]["limits"] == {"cpu": 4, "memory": "8Gi"}
    share = {"habana.ai/gaudi": 8, "cpu": 95, "memory": "409Gi", "hugepages-2Mi": "95000Mi"}
    assert worker["resources"] == {"requests": share, "limits": share}
    assert "command" not in worker  # so that the operator starts sshd
    assert pods(job)[0]["nodeSelector"] == {"brightcomputing.com/node-category": "compute"}
    assert {pod["serviceAccountName"] for pod in pods(job)} == {"yourusername"}


def test_the_launcher_waits_and_the_output_is_shared(made):
    job = made("--nodes", "2")
    assert job["spec"]["launcherCreationPolicy"] == "WaitForWorkersReady"
    launcher, worker = containers(job)
    assert "sleep" not in json.dumps(launcher)
    assert launcher["command"] == ["bash", "/mydir/vit_pytorch_gaudi/run_vit.sh"]
    assert launcher["args"] == ["--hostfile", "/etc/mpi/hostfile", "--cards", "8", "--setup", "--", "--resume"]
    mounts = [{mount["name"]: mount for mount in container["volumeMounts"]} for container in (launcher, worker)]
    assert set(mounts[0]) == {"mydir", "output"}
    assert set(mounts[1]) == set(PATHS)
    for name, mount in mounts[1].items():
        assert mount["mountPath"] == f"/{name}"
        assert mount.get("readOnly", False) == (name != "output")
    for pod, mounted in zip(pods(job), mounts):
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)


def test_no_more_rights_than_needed(made):
    text = json.dumps(made())
    for word in ("privileged", "hostNetwork", "hostPID", "runAsUser"):
        assert word not in text
    job = made()
    launcher, worker = pods(job)
    assert "hostIPC" not in launcher
    assert "securityContext" not in containers(job)[0]
    assert containers(job)[1]["securityContext"] == {"capabilities": {"add": ["SYS_NICE"]}}
    assert worker["hostIPC"]
    assert not launcher["automountServiceAccountToken"]
    assert not worker["automountServiceAccountToken"]


def test_every_option_arrives(made):
    places = {name: f"/data/{name}" for name in PATHS}
    words = [word for name in PATHS for word in (f"--{name}", places[name])]
    given = ["--user", "jo", "--nodes", "4", "--name", "run", "--namespace", "lab", "--image", "registry/x:1"]
    job = made(*given, *words, "--cards", "4", "--launcher-nodes", "pool=cpu", "--deadline", "3")
    assert job["metadata"] == {"name": "run", "namespace": "lab"}
    assert job["spec"]["slotsPerWorker"] == 4
    assert job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] == 4
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 10800
    assert pods(job)[0]["nodeSelector"] == {"pool": "cpu"}
    launcher, worker = containers(job)
    assert launcher["args"][3] == "4"
    assert {launcher["image"], worker["image"]} == {"registry/x:1"}
    share = {"habana.ai/gaudi": 4, "cpu": 47, "memory": "204Gi", "hugepages-2Mi": "47500Mi"}
    assert worker["resources"]["limits"] == share
    for pod in pods(job):
        for volume in pod["volumes"]:
            assert volume["hostPath"] == {"path": places[volume["name"]], "type": "Directory"}
    assert "yourusername" not in json.dumps(job)


@pytest.mark.parametrize("cards", range(1, 9))
def test_huge_pages_are_whole(made, cards):
    share = containers(made("--cards", cards))[1]["resources"]["limits"]
    assert int(share["hugepages-2Mi"][:-2]) % 2 == 0
    assert share["cpu"] >= 8 * cards


def test_a_claim_instead_of_a_path(made):
    job = made("--output", "pvc:results", "--user", "yes", "--launcher-nodes", "")
    for pod in pods(job):
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "output"]
        assert volume == {"name": "output", "persistentVolumeClaim": {"claimName": "results"}}
        assert pod["serviceAccountName"] == "yes"  # not YAML's true
    assert pods(job)[0]["nodeSelector"] == {}


def test_the_first_line_makes_it_again(attempt):
    words = ["--user", "jo", "--nodes", "3", "--launcher-nodes", ""]
    text = attempt("mpijob.py", *words).output
    assert shlex.split(text.splitlines()[0].split("mpijob.py ")[1]) == words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--user Jo", "--user Jo is no name for Kubernetes"),
        ("--user jo_e", "--user jo_e is no name"),
        ("--namespace a/b", "--namespace a/b is no name"),
        (f"--name {'x' * 55}", "digits and dashes, with those of the workers' -worker-N"),
        ("--mydir relative", "--mydir relative is neither a path"),
        ("--output /a,b", "--output /a,b is neither a path"),
        ("--output pvc:A_b", "--output A_b is no name"),
        ("--image a,b", "--image a,b is no name of an image"),
        ("--launcher-nodes cpu", "is no label: give KEY=VALUE"),
        ("--nodes 0", "--nodes"),
        ("--cards 9", "--cards"),
        ("--node 2", "mean --nodes"),
    ],
)
def test_refused(attempt, words, says):
    done = attempt("mpijob.py", *words.split())
    assert (done.status, done.output) == (2, "")
    assert says in done.error
    assert done.error.count("\n") == 1


def put(job, path, value):
    """Set a field of the job, or remove it."""
    *above, last = path.split("/")
    for key in above:
        job = job[int(key) if key.isdigit() else key]
    if value is None:
        del job[last]
    else:
        job[last] = value


WORKER = "spec/mpiReplicaSpecs/Worker"
POD = f"{WORKER}/template/spec"


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("apiVersion", "kubeflow.org/v1", "const"),
        ("metadata/name", "Two_Cards", "pattern"),
        ("spec/slotPerWorker", 8, "additionalProperties"),
        ("spec/slotsPerWorker", "8", "type"),
        ("spec/cleanPodPolicy", "Running", "additionalProperties"),  # where v1 had it
        ("spec/runPolicy/cleanPodPolicy", "Always", "enum"),
        ("spec/runPolicy/ttlSecondsAfterFinished", -1, "minimum"),
        ("spec/launcherCreationPolicy", "WaitForWorkers", "enum"),
        ("spec/mpiImplementation", "OpenMpi", "enum"),
        ("spec/mpiReplicaSpecs/Launcher/replicas", 2, "const"),
        ("spec/mpiReplicaSpecs/Launcher", None, "required"),
        (f"{WORKER}/replicas", 0, "minimum"),
        (f"{WORKER}/restartPolicy", "Always", "enum"),
        (f"{POD}/restartPolicy", "Never", "not"),
        (f"{POD}/containers", None, "required"),
    ],
)
def test_planted_errors_in_the_jobs_fields(made, path, value, error):
    job = copy.deepcopy(made())  # YAML's aliases are one object
    put(job, path, value)
    with pytest.raises(jsonschema.ValidationError) as caught:
        check(job)
    assert error in {caught.value.validator, *(inner.validator for inner in caught.value.context)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{POD}/hostIPC", "yes"),
        (f"{POD}/hostIpc", True),
        (f"{POD}/volumes/0/hostpath", {"path": "/"}),
        (f"{POD}/containers/0/image", 1.15),
        (f"{POD}/containers/0/resources/limit", {}),
        (f"{POD}/containers/0/resources/limits", ["8"]),
        (f"{POD}/containers/0/env", {"NUM_NODES": "2"}),
        (f"{POD}/containers/0/readinessProbe/exec/command", "true"),
        (f"{POD}/terminationGracePeriodSeconds", "300"),
    ],
)
def test_planted_errors_in_a_pod(made, path, value):
    job = copy.deepcopy(made())
    put(job, path, value)
    with pytest.raises(kubernetes_validate.ValidationError):
        check(job)


def stub(folder, name, code):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def test_a_worker_is_ready_when_sshd_answers(made, tmp_path):
    """On whatever port the image's sshd has."""
    command = containers(made())[1]["readinessProbe"]["exec"]["command"]
    stub(tmp_path, "sshd", 'printf "permitrootlogin yes\\nport %s\\nportable no\\n" "$PORT"')
    command[-1] = command[-1].replace("/usr/sbin/sshd", str(tmp_path / "sshd"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        environment = dict(os.environ, PORT=str(server.getsockname()[1]))
        assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL).returncode != 0
        server.listen()
        assert subprocess.run(command, env=environment).returncode == 0


def test_a_worker_lets_the_training_save_before_it_ends(made, tmp_path):
    """The hook asks the processes to stop as mpirun does, and returns when train.py has gone."""
    command = containers(made())[1]["lifecycle"]["preStop"]["exec"]["command"]
    for name, code in {
        "pkill": f'echo pkill "$@" >>{tmp_path}/calls',
        "pgrep": f"echo pgrep >>{tmp_path}/calls; (($(grep -c pgrep {tmp_path}/calls) < 3)) && echo 12",
        "sleep": ":",
    }.items():
        stub(tmp_path, name, code)
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.stdout + done.stderr == ""
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["pkill -USR1 -f [v]it_pytorch_gaudi/train.py", "pgrep", "pgrep", "pgrep"]


@pytest.mark.parametrize(("nodes", "cards", "shares"), [(1, 8, True), (2, 8, True), (1, 6, False), (4, 8, False)])
def test_cards_that_cannot_share_the_documents_batch_are_said(attempt, nodes, cards, shares):
    done = attempt("mpijob.py", "--nodes", str(nodes), "--cards", str(cards))
    said = f"warning: {nodes * cards} cards can't share 512 images in micro-batches of 32: add another"
    assert (said in done.error) == (not shares)
