"""Write the Kubernetes job: python mpijob.py --user NAME --nodes 2 > vit_16cards.yaml; both files here are made so."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Dict, Optional, Sequence

from run.errors import UsageError, entry_point
from run.options import option, parse

TEMPLATE = Path(__file__).resolve().parent / "scripts" / "mpijob.yaml"
CARDS_OF_NODE = 8
MICRO_BATCHES = 16  # of 32 images, in run_vit.sh's 512 of a step
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a name in Kubernetes
_PATH = re.compile(r"/[\w./@+-]*")  # needs no quotes in YAML
_IMAGE = re.compile(r"[\w./:@-]+")
_NODE_LABEL = re.compile(r"[\w./-]+=[\w.-]*")


@dataclass(frozen=True)
class JobOptions:
    """Job."""

    nodes: int = option(1, "workers, each on a node of its own", minimum=1)
    cards: int = option(CARDS_OF_NODE, "Gaudi cards of each", minimum=1, maximum=CARDS_OF_NODE)
    user: str = option("yourusername", "account, and part of names and paths that are not given")
    name: Optional[str] = option(None, "of the job; none is USER-vit-TOTALcards")
    namespace: Optional[str] = option(None, "none is USER-restricted")
    image: str = option(
        "vault.habana.ai/gaudi-docker/1.15.1/ubuntu22.04/habanalabs/pytorch-installer-2.2.0:latest",
        "container image with SynapseAI, PyTorch, Open MPI and sshd",
    )
    mydir: Optional[str] = option(None, "this repository on the nodes, or pvc:CLAIM")
    dataset: Optional[str] = option(None, "ILSVRC2012, with train/ and val/, or pvc:CLAIM")
    pretrained: Optional[str] = option(None, "folder of ViT-B_16.npz, or pvc:CLAIM")
    output: Optional[str] = option(None, "folder for logs and checkpoints that all nodes share, or pvc:CLAIM")
    launcher_nodes: str = option(
        "brightcomputing.com/node-category=compute", "label of the nodes for the launcher; '' is any node"
    )
    deadline: int = option(48, "after which the job is stopped", unit="hours", minimum=1)


def manifest(options: JobOptions, words: Sequence[str] = ()) -> str:
    """Text of the job.

    Args:
        options: of the job.
        words: the command line, for the first line of the text.

    Raises:
        UsageError: something that Kubernetes would refuse or YAML misread.
    """
    user = _name("--user", options.user)
    name = options.name or f"{user}-vit-{options.nodes * options.cards}cards"
    _name("--name", f"{name}-worker-{options.nodes - 1}", name)
    ceph = f"/voyager/ceph/users/{user}"
    folders = {
        "mydir": options.mydir or f"/home/{user}/models/voyager/vit_pt/1.15.1",
        "dataset": options.dataset or f"{ceph}/datasets/imagenet/ILSVRC2012",
        "pretrained": options.pretrained or f"{ceph}/datasets/vit_pretrained",
        "output": options.output or f"{ceph}/results/vit",
    }
    if not _IMAGE.fullmatch(options.image):
        raise UsageError(f"--image {options.image} is no name of an image: give REGISTRY/NAME:TAG")
    return Template(TEMPLATE.read_text()).substitute(
        **{folder: _volume(f"--{folder}", place) for folder, place in folders.items()},
        **_resources(options.cards),
        words="".join(f" {shlex.quote(word)}" for word in words),
        name=name,
        namespace=_name("--namespace", options.namespace or f"{user}-restricted"),
        account=user,
        nodes=options.nodes,
        cards=options.cards,
        image=options.image,
        launcher_nodes=_selector(options.launcher_nodes),
        deadline=3600 * options.deadline,
    )


def _resources(cards: int) -> Dict[str, int]:
    """The cards' share of a node that gives 95 CPUs, 409 GiB and 95,000 MiB of huge pages of 2 MiB to all its 8."""
    return {
        "cpu": 96 * cards // CARDS_OF_NODE - 1,
        "memory": 409 * cards // CARDS_OF_NODE,
        "hugepages": 47500 * cards // CARDS_OF_NODE * 2,
    }


def _name(flag: str, name: str, shown: str = "") -> str:
    if not _LABEL.fullmatch(name):
        raise UsageError(
            f"{flag} {shown or name} is no name for Kubernetes: take at most 63 small letters, digits and dashes"
            + (", with those of the workers' -worker-N" if shown else "")
        )
    return name


def _volume(flag: str, place: str) -> str:
    """A path on the nodes or a claim, as YAML of a volume's source."""
    kind, _, claim = place.partition(":")
    if kind == "pvc" and claim:
        return f'persistentVolumeClaim: {{claimName: "{_name(flag, claim)}"}}'
    if not _PATH.fullmatch(place):
        raise UsageError(
            f"{flag} {place} is neither a path from / of letters, digits and ._@+- nor pvc:CLAIM: give one of them"
        )
    return f"hostPath: {{path: {place}, type: Directory}}"


def _selector(label: str) -> str:
    if not label:
        return "{}"
    if not _NODE_LABEL.fullmatch(label):
        raise UsageError(f"--launcher-nodes {label} is no label: give KEY=VALUE")
    key, _, value = label.partition("=")
    return f'{{{key}: "{value}"}}'


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Print the job that the options ask for."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(
        JobOptions,
        words,
        configs=None,
        script="mpijob.py",
        description="Print a Kubernetes job (MPIJob of the MPI operator) that runs run_vit.sh on Gaudi nodes.",
    )
    sys.stdout.write(manifest(options, words))
    cards = options.nodes * options.cards
    if MICRO_BATCHES % cards:
        remedy = "add another --global_batch_size or a smaller --train_batch_size to the launcher's args"
        print(f"warning: {cards} cards can't share 512 images in micro-batches of 32: {remedy}", file=sys.stderr)


if __name__ == "__main__":
    entry_point(main)
