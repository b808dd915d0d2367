"""Run the app's scripts as processes of their own without importing torch for each: one process imports, and forks.

python -m tests.forks is that process. A line of JSON on its standard input is answered by one on its standard output:
{"words", "folder", "log", "variables"}: start `python3 WORDS` there → its process number; {"wait"}: → exit status.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

from tests.scripts import APP, Finished, environment

LOADED_ONCE = ["matplotlib.pyplot", "torch.distributed", "timm.data", "poptorch_host.executor", "onnxruntime"]
LOADED_ONCE += ["train_swin", "validate", "predict", "dataset.pack", "common.imagenet", "pytest"]


class Forks:
    def __init__(self):
        path = os.pathsep.join([str(APP), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        command = [sys.executable, "-m", "tests.forks"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen(command, cwd=APP, env=environment(PYTHONPATH=path), **pipes)
        atexit.register(self.close)

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def ask(self, **request):
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def start(self, words, log, folder=APP, **variables):
        """Start `python3 WORDS` with its output in the file `log`."""
        Path(log).touch()
        return self.ask(words=list(map(str, words)), log=str(log), folder=str(folder), variables=variables)

    def wait(self, process):
        """Exit status, negative for a signal."""
        return self.ask(wait=process)

    def run(self, words, log, folder=APP, **variables):
        """Status, all output, and nothing for errors, which are among it."""
        status = self.wait(self.start(words, log, folder, **variables))
        return Finished(status, Path(log).read_text(), "")


@functools.lru_cache(maxsize=None)
def forks() -> Forks:
    return Forks()


def begin(words, log, folder, variables):
    process = os.fork()
    if process:
        return process
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ.update(variables)
    module = words[0] == "-m"
    words = words[1:] if module else words
    sys.argv = words
    status = 1
    try:
        if module:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status))


def serve():
    import warnings

    import torch

    for name in LOADED_ONCE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*found in sys.modules after import of package.*")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = begin(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
