"""Run many command lines one after another, those of the app's scripts without importing torch anew for each.

python -m tests.forked_runs FILE: FILE holds a JSON list of {"name", "line", "cwd", "log"}. A line that is
`python SCRIPT …` or `python -m MODULE …`, maybe after `poprun …`, runs in a fork of this process, and any other in
bash. {name: exit status} goes to standard output.
"""

import importlib
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from tests.stand_in_poprun import plan

LOADED_ONCE = ["matplotlib.backends.backend_agg", "torch.distributed", "torch.utils.tensorboard", "timm.data"]
LOADED_ONCE += ["poptorch_host.executor", "main_pretrain", "main_finetune", "main_linprobe", "finetune_validate"]
LOADED_ONCE += ["visualize", "predict", "convert", "common.imagenet"]


def start(words, environment, job):
    """Fork a process that runs `python …` as the main program."""
    process = os.fork()
    if process:
        return process
    output = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(job["cwd"])
    os.environ.update(environment)
    status = 1
    try:
        if words[1] == "-m":
            sys.argv = words[2:]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def run(job):
    words, places = shlex.split(job["line"]), [{}]
    if words[0] == "poprun":
        places, words = plan(words[1:])
    if words[0] not in ("python", "python3") or "&&" in words:
        with open(job["log"], "w") as log:
            command = ["bash", "-euc", job["line"]]
            return subprocess.run(command, cwd=job["cwd"], stdout=log, stderr=log, timeout=300).returncode
    processes = [start(words, place, job) for place in places]
    return max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes)


def run_all(jobs, folder, environment):
    """Run jobs in a process of their own; their exit statuses by name."""
    app = Path(__file__).resolve().parent.parent
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.forked_runs", str(folder / "jobs.json")],
        cwd=app,
        env=dict(environment, PYTHONPATH=str(app)),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    for name in LOADED_ONCE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print(json.dumps({job["name"]: run(job) for job in json.loads(Path(sys.argv[1]).read_text())}))
