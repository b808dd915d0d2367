"""Errors that users see: one sentence with a remedy and an exit code, a traceback only with --debug."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from typing import Callable, NoReturn, Optional, Sequence

from launcher import place

FIRST_SPEAKS = 5.0  # seconds that the others leave the first process to tell of wrong usage
_DISK_FULL = os.strerror(errno.ENOSPC)


class UserError(Exception):
    """Something the user can put right; the message is one sentence with its remedy. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong flag or value. Exit code 2."""

    exit_code = 2


class Stopped(Exception):  # noqa: N818 (no error)
    """The run was asked to stop, has saved a checkpoint and can be resumed. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


def entry_point(main: Callable[[Optional[Sequence[str]]], None], argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run `main(argv)`, print what went wrong as one sentence on stderr and exit.

    Exit codes: 0 done, 1 error, 2 usage, 75 stopped on request with a checkpoint saved, 130 interrupted. Where one of
    several processes fails, it ends the others, which would wait for it for ever.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    code = _run(main, argv, debug)
    if code not in (0, Stopped.exit_code):
        _end_all(code)
    sys.exit(code)


def _run(main: Callable[[Optional[Sequence[str]]], None], argv: Optional[Sequence[str]], debug: bool) -> int:
    try:
        main(argv)
        sys.stdout.flush()
    except (UserError, Stopped) as error:
        label = "stopped" if isinstance(error, Stopped) else "error"
        return _complain(f"{label}: {error}", error.exit_code, debug)
    except KeyboardInterrupt:
        return _complain("interrupted", 130, debug)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        text = f"error: {where}{error.strerror or error}: check the path, its permissions and the space on the disk"
        return _complain(text, 1, debug)
    except Exception as error:
        if _DISK_FULL in str(error):  # which TensorFlow tells by an error of its own
            return _complain("error: no space is left on the disk: free some, or give another folder", 1, debug)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        return _complain(f"error: {type(error).__name__}: {lines[0]} (run again with --debug to see where)", 1, debug)
    return 0


def _complain(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    here = place()
    if here.rank and code == UsageError.exit_code:
        # All have the same command line: the first one says it, and its end is that of all, unless it is well.
        time.sleep(FIRST_SPEAKS)
    if here.rank == 0 or code != Stopped.exit_code:  # all stop together: one voice is enough
        prefix = f"[rank {here.rank}] " if here.size > 1 else ""
        print(prefix + sentence, file=sys.stderr, flush=True)
    return code


def _end_all(code: int) -> None:
    """End the other processes, if MPI connects this one with any."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.size > 1:
        sys.stdout.flush()
        mpi.COMM_WORLD.Abort(code)
