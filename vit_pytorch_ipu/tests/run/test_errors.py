"""What users see when something goes wrong, and the exit codes."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from run.errors import FIRST_SPEAKS, Stopped, UsageError, UserError, entry_point
from run.files import write_atomically


def outcome(capsys, error, argv=(), **settings):
    def main(argv):
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        entry_point(main, list(argv), **settings)
    return caught.value.code, capsys.readouterr().err


class LayoutError(ValueError):
    pass


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (UserError("no images in x: give --dataset-path"), 1, "error: no images in x: give --dataset-path\n"),
        (UsageError("there is no flag --x"), 2, "error: there is no flag --x\n"),
        (
            Stopped("saved at step 3: start again with --resume"),
            75,
            "stopped: saved at step 3: start again with --resume\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(4), 4, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("bye"), 1, "bye\n"),
        (
            ValueError("bad shape.\n\n  details\n"),
            1,
            "error: ValueError: bad shape (run again with --debug to see where)\n",
        ),
        (RuntimeError(), 1, "error: RuntimeError (run again with --debug to see where)\n"),
        (
            AssertionError("An error occurred: RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')"),
            1,
            "error: a loading process was killed, perhaps for want of memory: go on with --resume and fewer such "
            "processes\n",
        ),
        (LayoutError("seen as it is"), 1, "error: seen as it is\n"),
        (
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            1,
            "error: a file: Broken pipe (run again with --debug to see where)\n",
        ),
    ],
)
def test_exit_code_and_one_sentence(capsys, error, code, text):
    assert outcome(capsys, error, expected=(LayoutError,)) == (code, text)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space is left on the disk for /o/state: free some or give another --output"),
        (errno.EDQUOT, "the disk quota is used up at /o/state"),
        (errno.EACCES, "no permission for /o/state"),
        (errno.EROFS, "/o/state is on a read-only file system"),
        (errno.ENOENT, "/o/state does not exist"),
        (errno.EEXIST, "/o/state is in the way: remove it or give another path"),
        (errno.EIO, "/o/state: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(capsys, number, said):
    code, text = outcome(capsys, OSError(number, os.strerror(number), "/o/state"))
    assert code == 1
    assert text.startswith("error: " + said)
    assert "Errno" not in text


def test_what_is_in_the_way_of_a_folder_or_of_a_file_is_named(capsys, tmp_path):
    """The temporary file that an atomic write moves is nothing that a user knows."""
    place = tmp_path / "x"
    place.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(place, "content")
    said = f"error: {place} is a folder, a file was expected: check the path\n"
    assert outcome(capsys, caught.value) == (1, said)
    place.rmdir()
    place.write_text("")
    with pytest.raises(FileExistsError) as there:
        place.mkdir(exist_ok=True)
    assert outcome(capsys, there.value) == (1, f"error: {place} is in the way: remove it or give another path\n")


@pytest.mark.parametrize("argv", [["--debug"], ["--debug=yes"], ["--debug", "true", "--x"], ["--debug", "--x"]])
def test_traceback_with_debug(capsys, argv):
    code, text = outcome(capsys, UserError("wrong"), argv)
    assert code == 1
    assert text.startswith("Traceback")
    assert text.endswith("\nerror: wrong\n")


@pytest.mark.parametrize("argv", [[], ["--debug", "false"], ["--debug=0"], ["--no-debug"]])
def test_no_traceback_without(capsys, argv):
    assert "Traceback" not in outcome(capsys, ValueError("wrong"), argv)[1]


def test_several_processes_say_which_one_and_leave_usage_errors_to_the_first(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr("run.errors.time.sleep", waited.append)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert outcome(capsys, UserError("wrong")) == (1, "[rank 3] error: wrong\n")
    assert not waited
    assert outcome(capsys, UsageError("wrong")) == (2, "[rank 3] error: wrong\n")  # if it is still there then
    assert waited == [FIRST_SPEAKS]
    monkeypatch.setenv("RANK", "0")
    assert outcome(capsys, UsageError("wrong")) == (2, "[rank 0] error: wrong\n")
    assert waited == [FIRST_SPEAKS]


def test_command_line_is_read_where_no_words_are_given(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["x.py", "--debug"])
    with pytest.raises(SystemExit):
        entry_point(seen.append)
    assert seen == [None]


def test_a_reader_that_has_gone_ends_the_program_quietly():
    code = "from run.errors import entry_point\nentry_point(lambda argv: [print('x' * 100) for _ in range(100000)])"
    command = '%s -c "$CODE" | head -n 1; exit ${PIPESTATUS[0]}' % sys.executable
    environment = {"CODE": code, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (141, "x" * 100 + "\n", "")


def test_without_torch_nothing_loads_it(run):
    code = "import sys\nfrom run.errors import entry_point\nimport run.options\nassert 'torch' not in sys.modules"
    assert run(code + "\nentry_point(lambda argv: None)") == (0, "", "")


def test_what_torch_tells_again_of_a_killed_loading_process_is_not_shown(capsys):
    def told_again(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    class Loader:
        def __del__(self):
            signal.raise_signal(signal.SIGCHLD)

    def main(argv):
        loader = Loader()  # ends with the exception that holds this frame
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.", id(loader))

    before = signal.signal(signal.SIGCHLD, told_again)
    try:
        with pytest.raises(SystemExit):
            entry_point(main, [])
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert capsys.readouterr().err.count("\n") == 1


def closed(here, there):
    there.close()
    here.recv()


def broken_off(here, there):
    os.write(there.fileno(), (100).to_bytes(4, "big") + b"half")
    there.close()
    here.recv()


def gone(here, there):
    multiprocessing.connection.Client("/nowhere/socket")


@pytest.mark.parametrize("pipe", [closed, broken_off, gone])
@pytest.mark.parametrize("told_by_the_accessor", [False, True])
def test_a_pipe_of_a_killed_loading_process(capsys, pipe, told_by_the_accessor):
    def main(argv):
        try:
            pipe(*multiprocessing.Pipe())
        except (EOFError, OSError) as error:
            if told_by_the_accessor:
                raise AssertionError("An error occurred in the data fetcher: %r" % error) from error
            raise

    with pytest.raises(SystemExit):
        entry_point(main, [])
    assert capsys.readouterr().err.startswith("error: a loading process was killed")


def test_a_missing_file_that_another_error_came_from_is_not_a_loading_process(capsys):
    def main(argv):
        try:
            Path("/nowhere/file").read_text()
        except OSError as error:
            raise ValueError("bad") from error

    with pytest.raises(SystemExit):
        entry_point(main, [])
    assert capsys.readouterr().err == "error: ValueError: bad (run again with --debug to see where)\n"
