"""Errors that users see: one sentence with a remedy and an exit code, a traceback only with --debug."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
import time
import traceback
from typing import Callable, NoReturn, Optional, Sequence, Tuple, Type

from .memory import keep_freed_memory

EXIT_INTERRUPTED = 130
FIRST_SPEAKS = 5.0  # seconds that the others leave the first process to tell of wrong usage
EXIT_BROKEN_PIPE = 141
FALSE_WORDS = ("false", "f", "0", "no", "n")
TRUE_WORDS = ("true", "t", "1", "yes", "y")


class UserError(Exception):
    """Something the user can put right; the message is one sentence with its remedy. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong flag, key or value. Exit code 2."""

    exit_code = 2


class Stopped(Exception):  # noqa: N818 (no error)
    """The run was asked to stop, has saved a checkpoint and can be resumed. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75


def entry_point(
    main: Callable[[Optional[Sequence[str]]], None],
    argv: Optional[Sequence[str]] = None,
    *,
    expected: Tuple[Type[Exception], ...] = (),
) -> NoReturn:
    """Run `main(argv)`, print what went wrong as one sentence on stderr and exit. Freed memory is kept meanwhile.

    Exit codes: 0 done, 1 error, 2 usage, 75 stopped on request with a checkpoint saved, 130 interrupted,
    141 the reader of the output has gone. With several processes the process group is taken down on the way out.

    Args:
        main: takes the arguments after the script's name, None for those of the command line.
        argv: passed on to `main`.
        expected: further exceptions whose text is meant for users and shown as it is.
    """
    keep_freed_memory()
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = _debug_asked(arguments)
    code = _run(main, argv, debug, (UserError, Stopped, *expected))
    # Only here, with the exception and so the frames that hold the model gone, can the processes part safely.
    if "torch.distributed" in sys.modules:
        from .distributed import shutdown

        left = _run(lambda _: shutdown(wait=code == 0), None, debug, (UserError,))
        code = code or left
    sys.exit(code)


def _run(
    main: Callable[[Optional[Sequence[str]]], None],
    argv: Optional[Sequence[str]],
    debug: bool,
    shown: Tuple[Type[Exception], ...],
) -> int:
    try:
        main(argv)
        sys.stdout.flush()
    except SystemExit as error:
        return _system_exit_code(error)
    except KeyboardInterrupt:
        _complain("interrupted", None, debug)
        return EXIT_INTERRUPTED
    except shown as error:
        label = "stopped" if isinstance(error, Stopped) else "error"
        code = getattr(error, "exit_code", 1)
        if code == UsageError.exit_code and _rank() not in ("", "0"):
            # All have the same command line: the first one says it and its launcher ends the others, unless it is well.
            time.sleep(FIRST_SPEAKS)
        _complain(label, str(error) or type(error).__name__, debug)
        return int(code)
    except BrokenPipeError as error:
        if _output_is_closed():
            return EXIT_BROKEN_PIPE
        _complain("error", _sentence(error), debug)
        return 1
    except Exception as error:
        _complain("error", _sentence(error), debug)
        return 1
    return 0


def _complain(label: str, sentence: Optional[str], debug: bool) -> None:
    _expect_no_more()
    if debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if _rank():
        label = "[rank %s] %s" % (_rank(), label)
    print(label if sentence is None else "%s: %s" % (label, sentence), file=sys.stderr, flush=True)


def _expect_no_more() -> None:
    """Keep torch's handler from telling again, wherever the program is, that a loading process was killed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _sentence(error: Exception) -> str:
    _expect_no_more()
    if _is_of_a_loading_process(error):
        return "a loading process was killed, perhaps for want of memory: go on with --resume and fewer such processes"
    if isinstance(error, OSError) and error.errno is not None:
        return _about_files(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = "%s: %s" % (type(error).__name__, lines[0].rstrip(".")) if lines else type(error).__name__
    return "%s (run again with --debug to see where)" % what


def _is_of_a_loading_process(error: Optional[BaseException]) -> bool:
    """Whether the error, or what it was raised from, tells that a loader's process has ended.

    It does so in torch's words, or by a pipe that is closed, a socket that is gone or a message that breaks off.
    """
    if error is None:
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    broken_off = isinstance(error, OSError) and error.errno is None
    ended = broken_off or isinstance(error, (EOFError, ConnectionError, FileNotFoundError))
    piped = ended and any("multiprocessing" in name for name in files)
    return piped or "DataLoader worker" in str(error) or _is_of_a_loading_process(error.__cause__)


def _about_files(error: OSError) -> str:
    """Say in one sentence what the system refused and what to do about it."""
    # Of a move it is the target that the user knows.
    name = next((name for name in (error.filename2, error.filename) if name is not None), "a file")
    where = os.fsdecode(name) if isinstance(name, bytes) else name
    known = {
        errno.ENOSPC: "no space is left on the disk for %s: free some or give another --output",
        errno.EDQUOT: "the disk quota is used up at %s: free some space or give another --output",
        errno.EACCES: "no permission for %s: change it or give another path",
        errno.EPERM: "no permission for %s: change it or give another path",
        errno.EROFS: "%s is on a read-only file system: give another path",
        errno.ENOENT: "%s does not exist: check the path",
        errno.EEXIST: "%s is in the way: remove it or give another path",
        errno.ENOTDIR: "a part of %s is a file, not a folder: check the path",
        errno.EISDIR: "%s is a folder, a file was expected: check the path",
        errno.EMFILE: "too many files are open at %s: raise `ulimit -n` or load with fewer workers",
    }
    if error.errno in known:
        return known[error.errno] % where
    return "%s: %s (run again with --debug to see where)" % (where, error.strerror or type(error).__name__)


def _system_exit_code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _output_is_closed() -> bool:
    """Whether stdout or stderr lost its reader; what is left for it goes to /dev/null, so that the exit is quiet."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError):  # not backed by a file: nobody to lose
            continue
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return closed


def _debug_asked(arguments: Sequence[str]) -> bool:
    asked = False
    for word, following in zip(arguments, [*arguments[1:], ""]):
        if word == "--debug":
            asked = following.lower() not in FALSE_WORDS
        elif word.startswith("--debug="):
            asked = word.split("=", 1)[1].lower() not in FALSE_WORDS
    return asked


def _rank() -> str:
    """This process's rank among several, "" when it is alone."""
    from .launcher import place  # imports this module

    try:
        here = place()
    except UserError:
        return ""
    return str(here.rank) if here.world_size > 1 else ""
