"""Stand-ins for the programs that the launch scripts call, in a folder that comes first on PATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.scripts import APP, environment

TOOLS = Path(sys.executable).parent
OPEN_MPI_4 = "mpirun (Open MPI) 4.1.5"
OPEN_MPI_5 = "mpirun (Open MPI) 5.0.8"

# Says its version; else notes its words, variables and hostfile, and does `code`.
_MPIRUN = """#!{python}
import json, os, signal, sys, time
if sys.argv[1:] == ["--version"]:
    print({version!r})
    print("Report bugs to https://www.open-mpi.org/community/help/")
    sys.exit()
hosts = open(sys.argv[sys.argv.index("--hostfile") + 1]).read()
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], dict(os.environ), hosts]) + "\\n")
{code}
"""
# Runs the command here, as the shell of the other host would, and notes both.
SSH = """
echo "$*" >>{folder}/ssh.log
while [[ $1 == -* ]]; do case $1 in -x) shift ;; *) shift 2 ;; esac; done
shift
exec bash -c "$*"
"""


def shell(folder, name, code):
    """A program of a few lines of bash."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def mpirun(folder, version=OPEN_MPI_5, code=""):
    folder.mkdir(exist_ok=True)
    text = _MPIRUN.format(python=sys.executable, version=version, log=str(folder / "mpirun.log"), code=code)
    (folder / "mpirun").write_text(text)
    (folder / "mpirun").chmod(0o755)


def noted(folder):
    """(words, variables, hostfile's lines) of each call of mpirun."""
    calls = [json.loads(line) for line in (folder / "mpirun.log").read_text().splitlines()]
    return [(words, variables, hosts.splitlines()) for words, variables, hosts in calls]


def machine(folder, sockets=2, cores=24, threads=2, allowed=None):
    """A machine's processors, as lscpu lists them: first one thread of every core, then the other."""
    rows = [(socket * cores + core, socket) for socket in range(sockets) for core in range(cores)]
    lines = [f"{thread * len(rows) + core},{core},{socket}" for thread in range(threads) for core, socket in rows]
    shell(folder, "lscpu", "cat <<'END'\n# comment\n" + "\n".join(lines) + "\nEND")
    allowed = allowed or f"0-{len(lines) - 1}"
    shell(folder, "taskset", f'echo "pid 7\'s current affinity list: {allowed}"')


def launch(folder, script, *words, **changes):
    """Run a script from elsewhere, as a user or a container does, with the stand-ins of `folder`."""
    path = os.pathsep.join([str(folder), str(TOOLS), "/usr/bin", "/bin"])
    changes = {"PATH": path, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **changes}
    inherited = {name: value for name, value in environment().items() if not name.startswith(("PT_", "HABANA_"))}
    return subprocess.run(
        ["bash", str(APP / script), *map(str, words)],
        cwd="/",
        env={**inherited, **changes},
        capture_output=True,
        text=True,
        timeout=120,
    )
