"""Run many commands of the app's scripts one after another without importing torch anew for each.

python -m tests.forked_runs FILE: FILE holds a JSON list of {"name", "words", "folder"}; `words` is `python3 SCRIPT …`,
maybe after `poprun …`. What a command writes goes to FOLDER/NAME.log, and {name: exit status} to standard output.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

import torch

from tests.stand_in_poprun import plan

LOADED_ONCE = ["matplotlib.pyplot", "torch.distributed", "torchvision.transforms.v2", "poptorch_host.executor"]
LOADED_ONCE += ["finetune", "pretrain", "validation"]


def start(words, environment, log):
    """Fork a process that runs `python3 SCRIPT …` as the main program."""
    process = os.fork()
    if process:
        return process
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    sys.argv = words[1:]
    status = 1
    try:
        runpy.run_path(words[1], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(job):
    words, places = job["words"], [{}]
    if words[0] == "poprun":
        places, words = plan(words[1:])
    assert words[0] == "python3"
    log = Path(job["folder"]) / f"{job['name']}.log"
    log.touch()
    processes = [start(words, place, log) for place in places]
    return max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes)


if __name__ == "__main__":
    for name in LOADED_ONCE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    print(json.dumps({job["name"]: run(job) for job in json.loads(Path(sys.argv[1]).read_text())}))
