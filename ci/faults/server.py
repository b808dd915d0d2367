"""A process that has imported what an app needs and forks a process for each of the app's commands.

A command so starts in a fraction of the seconds that the imports take, and is otherwise what `python3 WORDS` is: a
process of its own with the script as its main program. Both environments run this file, so it needs the standard
library only. Requests and answers are lines of JSON:
{"words", "folder", "log", …} starts a command -> its process number; {"poll": N} -> exit status, null while it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import runpy
import sys
from typing import Any, Dict, List, Optional

from ci.faults import sabotage


def main(modules: List[str]) -> None:
    """Import `modules`, then serve standard input until it ends."""
    for name in modules:
        importlib.import_module(name)
    if "torch" in modules:
        importlib.import_module("torch").set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_poll(request["poll"]) if "poll" in request else _start(request)), flush=True)


def _poll(process: int) -> Optional[int]:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _start(request: Dict[str, Any]) -> int:
    process = os.fork()
    if not process:
        try:
            status = _command(**request)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return process


def _command(
    words: List[str],
    folder: str,
    log: str,
    variables: Dict[str, str],
    file_limit: Optional[int],
    saboteur: Optional[Dict[str, Any]],
) -> int:
    """Run `python3 WORDS` in `folder`; standard output goes to LOG.out and errors to LOG.err."""
    os.setsid()  # so that what the command leaves behind can be ended with it
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log + ".out", os.O_WRONLY | os.O_CREAT),
                                    (2, log + ".err", os.O_WRONLY | os.O_CREAT)):  # fmt: skip
        os.dup2(os.open(path, flags | os.O_TRUNC, 0o644), descriptor)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    os.chdir(folder)
    os.environ.update(variables)
    sys.path[0] = folder
    finish = sabotage.begin(saboteur) if saboteur else None
    try:
        return _run(words)
    finally:
        if finish:
            finish()


def _run(words: List[str]) -> int:
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(os.path.abspath(words[0]), run_name="__main__")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
