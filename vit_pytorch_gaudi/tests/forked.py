"""Processes of train.py, forked from this one: torch is imported already, which saves each some seconds."""

import os
import signal
import sys
import time

import train
from common.imagenet import ImageNetLayoutError
from run.errors import entry_point
from tests.scripts import APP


class Forked:
    """train.py in a process of its own, its standard output and error in the file `log`."""

    def __init__(self, arguments, log, **environment):
        self.log, self.status = log, None
        sys.stdout.flush()
        self.process = os.fork()
        if not self.process:
            self._run(list(map(str, arguments)), environment)

    def _run(self, arguments, environment):
        status = 1
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.environ.update(environment)
            os.chdir(APP)
            entry_point(train.main, arguments, expected=(ImageNetLayoutError,))
        except SystemExit as error:
            status = error.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def running(self):
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if process else None
        return self.status is None

    def wait(self, seconds=120):
        """Exit status, minus the signal's number for one that was killed, as one is that takes longer."""
        until = time.monotonic() + seconds
        while self.running():
            time.sleep(0.01)
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
        return self.status

    def signal(self, number):
        if self.running():
            os.kill(self.process, number)

    def kill(self):
        """Whether it was still running."""
        alive = self.running()
        self.signal(signal.SIGKILL)
        self.wait()
        return alive
