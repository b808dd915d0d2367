import io
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ci.demo import running
from ci.demo.apps import APPS, ORDER, ROOT, App, Step
from ci.demo.running import AppRun, run_all
from ci.demo.view import View, last_line, line
from ci.readme_commands import commands

ALL = [(key, step) for key, app in APPS.items() for step in app.steps]


@pytest.mark.parametrize(("key", "step"), ALL, ids=[f"{key}-{step.name}" for key, step in ALL])
def test_each_command_is_one_of_the_readme(key, step):
    app = APPS[key]
    known = [command.text for command in commands(ROOT / app.folder / "README.md")]
    said = step.command.replace(f"../demo/{key}/", "output/")
    program = shlex.split(said)[1]
    if program in ("predict.py", "visualize.py"):
        assert any(text.startswith(f"python {program} --checkpoint output/") for text in known)
    else:
        assert said in known


@pytest.mark.parametrize(("key", "step"), ALL, ids=[f"{key}-{step.name}" for key, step in ALL])
def test_what_the_demo_adds_are_options_of_the_app(key, step):
    folder = ROOT / APPS[key].folder
    source = "\n".join(path.read_text() for path in [*folder.glob("*option*.py"), *folder.glob("predict*.py")])
    source += "\n".join(path.read_text() for path in folder.glob("run/folder.py"))
    for flag in re.findall(r"--([\w-]+)", step.extra):
        name = flag.replace("-", "_")
        assert re.search(rf'^    {name}: |"{name}"', source, re.MULTILINE), flag


def test_everything_is_written_below_demo():
    for key, step in ALL:
        places = re.findall(r"--output(?:_dir)? (\S+)", step.text)
        assert all(place == f"../demo/{key}" or place.startswith(f"../demo/{key}/") for place in places), step.text
    assert sorted(ORDER) == sorted(APPS)


@pytest.fixture
def make_app(tmp_path):
    """An app whose steps are Python programs, given as (name, source)."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "torch").symlink_to(sys.prefix)

    def make(key, *programs, processes=1):
        folder = tmp_path / key
        folder.mkdir()
        steps = []
        for name, source in programs:
            (folder / f"{name}.py").write_text(source)
            steps.append(Step(name, f"python {name}.py"))
        app = App(key, key.title(), key, "", steps, [], "", least=0.9, processes=processes)
        return AppRun(app, tmp_path / "demo" / key, tmp_path)

    return make


@pytest.fixture(autouse=True)
def _signals():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def nothing(_):
    pass


def test_steps_follow_each_other_and_leave_logs_and_times(make_app):
    run = make_app("one", ("first", "print('1 <b>', flush=True); sum(range(10**7))"), ("second", "print(2)"))
    run.app.steps[1] = replace(run.app.steps[1], output="two.txt")
    run_all([run], nothing, 1)
    assert [(done.step.name, done.status) for done in run.done] == [("first", 0), ("second", 0)]
    assert run.done[1].began >= run.done[0].began + run.done[0].seconds
    assert 0.05 < run.done[0].cpu <= run.done[0].seconds + 1
    assert run.log(run.app.steps[0]).read_text() == "1 <b>\n"
    assert (run.folder / "two.txt").read_text() == "2\n"
    assert run.log(run.app.steps[1]).read_text() == ""
    assert run.finished
    assert not run.failed


def test_a_failing_step_ends_its_app_and_no_other(make_app):
    bad = make_app("bad", ("first", "raise SystemExit('error: no')"), ("second", "print(2)"))
    good = make_app("good", ("first", "import time; time.sleep(1)"), ("second", "print(2)"))
    run_all([bad, good], nothing, 2)
    assert [done.status for done in bad.done] == [1]
    assert bad.failed
    assert bad.finished
    assert [done.status for done in good.done] == [0, 0]
    assert "first failed" in line(bad)
    assert "error: no" in line(bad)


def test_apps_share_the_cores(make_app):
    nap = ("nap", "import time; time.sleep(0.6)")
    runs = [make_app(name, nap, processes=count) for name, count in [("a", 2), ("b", 1), ("c", 1), ("d", 1)]]
    run_all(runs, nothing, 2)
    spans = [(run.done[0].began + run._since, run.done[0].seconds, run.app.processes) for run in runs]
    events = sorted([(began, count) for began, _, count in spans] + [(b + s, -count) for b, s, count in spans])
    busy = most = 0
    for _, change in events:
        busy += change
        most = max(most, busy)
    assert most == 2
    assert spans[0][0] < spans[1][0]


def test_one_core_runs_an_app_of_two_processes(make_app):
    run = make_app("wide", ("nap", "pass"), processes=2)
    run_all([run], nothing, 1)
    assert run.finished


def test_programs_compute_on_one_thread_with_their_environments_python(make_app):
    source = "import os, sys; print(os.environ['OMP_NUM_THREADS'], sys.prefix)"
    run = make_app("one", ("first", source))
    run_all([run], nothing, 1)
    threads, prefix = run.log(run.app.steps[0]).read_text().split()
    assert threads == "1"
    assert Path(prefix).resolve() == Path(sys.prefix).resolve()


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(met, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if met():
            return True
        time.sleep(0.1)
    return False


FAMILY = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
{}
with open("pids.tmp", "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
os.rename("pids.tmp", "pids")
time.sleep(300)
"""


@pytest.mark.parametrize("stubborn", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["yields", "stubborn"])
def test_an_interrupt_ends_children_and_theirs(make_app, monkeypatch, stubborn):
    monkeypatch.setattr(running, "GRACE", 1.0)
    run = make_app("family", ("live", FAMILY.format(stubborn)))
    pids = run._root / "family" / "pids"

    def interrupt(_):
        if pids.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([run], interrupt, 1)
    assert wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_program_ends_its_children_when_it_is_ended(tmp_path, number):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "live.py").write_text(FAMILY.format(""))
    program = f"""
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the caller ignores it
import ci.demo.__main__ as demo
from ci.demo.apps import App, Step
root = pathlib.Path({str(tmp_path)!r})
app = App("vit", "ViT", "app", "", [Step("live", {sys.executable!r} + " live.py")], [], "", least=0.9)
demo.APPS.clear()
demo.APPS["vit"] = app
demo.FOLDER = root / "demo"
run = demo.run
demo.run = lambda keys: run(keys, root / "demo", root)
sys.exit(demo.main())
"""
    demo = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    pids = tmp_path / "app" / "pids"
    try:
        assert wait_until(pids.exists)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=120)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert "stopped" in said
    assert wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_second_demo_is_refused(tmp_path, monkeypatch, capsys):
    import fcntl

    from ci.demo import __main__ as demo

    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    monkeypatch.setattr(demo, "run", lambda keys: pytest.fail("it ran"))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo", "vit"])
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert demo.main() == 1
    assert "another" in capsys.readouterr().err


def test_the_last_line_is_found_behind_bars_and_colours(tmp_path):
    log = tmp_path / "a.log"
    assert last_line(log) == ""
    log.write_bytes(b"x" * 9000 + b"\nfirst\n\x1b[1mStep 3/4\x1b[0m 50%\r  60% \r\n\n")
    assert last_line(log) == "60%"


def test_view_on_a_terminal_draws_over_itself(make_app, monkeypatch):
    run = make_app(
        "one", ("first", "print('Step 30/40' + 300 * '.', flush=True); import time; time.sleep(2)"), ("second", "")
    )
    waiting = make_app("two", ("first", ""))
    monkeypatch.setenv("COLUMNS", "120")
    stream = io.StringIO()
    view = View(stream, terminal=True)
    seen = []

    def show(runs):
        view.show([*runs, waiting])
        seen.append(line(run))

    run_all([run], show, 1)
    drawn = stream.getvalue()
    assert drawn.count("\x1b[2A") == len(seen) - 1
    assert max(len(text) for text in re.sub(r"\x1b\[\d[AK]", "", drawn).splitlines()) == 119
    assert "waiting" in drawn
    assert "done" in seen[-1]
    assert any("first 1/2" in text for text in seen)


def test_view_elsewhere_prints_plain_lines(make_app):
    run = make_app("one", ("first", "pass"), ("second", "pass"))
    stream = io.StringIO()
    run_all([run], View(stream, terminal=False).show, 1)
    said = stream.getvalue()
    assert "\x1b" not in said
    assert [text[: text.index("  ")] if "  " in text else text for text in said.splitlines()] == [
        "One: $ cd one && python first.py",
        "One: $ cd one && python second.py",
        "One",
    ]


def test_a_line_says_how_much_is_done(make_app):
    run = make_app("one", ("first", "print('Step 30/40', flush=True); import time; time.sleep(2)"))
    seen = []
    run_all([run], lambda _: seen.append(line(run)), 1)
    assert any(" 75 % " in text for text in seen)
    assert "\n" not in "".join(seen)
