"""What other processes do to a run: a second one in its folder, a loading process or a peer that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ci.faults import traces
from ci.faults.apps import KERAS, MAE, SWIN, VIT, App
from ci.faults.bench import Bench, Figure, shards
from ci.faults.processes import PYTHONS, VARIABLES, children

# What a run on two processes needs besides a launcher: something that they can share.
_TWO: Dict[str, List[object]] = {
    VIT: ["--replication-factor", 2], MAE: ["--replica", 2], SWIN: ["--replicas", 2], KERAS: ["--distributed"],
}  # fmt: skip


def second_run(bench: Bench, app: App) -> List[Figure]:
    """Start a run in the folder of one at work: the second is refused in a sentence, the first ends as undisturbed."""
    figure, run = Figure("second process on a run folder refused"), bench.new(app)
    first = bench.resumed(app, run)
    first.wait_until(lambda: first.step() >= 1)
    os.kill(first.process, signal.SIGSTOP)  # so that it can't be done before the second one has begun
    try:
        for words in ([app.whole(bench.data(app), run)] if bench.short else
                      [app.whole(bench.data(app), run), app.train(bench.data(app), run, *app.length)]):  # fmt: skip
            second = bench.run(app, words)
            figure.count("in use" in second.sentence, f"the second: {second}")
    finally:
        os.kill(first.process, signal.SIGCONT)
    done = first.wait()
    wrong = str(done) if done.status != 0 else traces.same_end(app, run, bench.whole(app))
    if wrong:
        figure.lost.append(f"the first: {wrong}")
    return [figure]


def worker_killed(bench: Bench, app: App) -> List[Figure]:
    """Kill a loading process: one sentence or no harm, and the run goes on to the undisturbed end."""
    figure = Figure("loading process killed: one sentence, resumed")
    for _ in range(1 if bench.short else 2):
        (_shard_maker_killed if app.name == KERAS else _loader_killed)(bench, app, figure)
    return [figure]


def _loader_killed(bench: Bench, app: App, figure: Figure) -> None:
    run = bench.new(app)
    command = bench.resumed(app, run, app.workers, 2)
    command.wait_until(lambda: command.step() >= 3)
    loaders = children(command.process)
    for loader in loaders[:1]:
        os.kill(loader, signal.SIGKILL)
    done = command.wait()
    if not figure.count(loaders and (done.status == 0 or done.sentence), f"{len(loaders)} loaders, {done}"):
        return
    again = bench.resumed(app, run).wait()
    wrong = str(again) if again.status != 0 else traces.same_end(app, run, bench.whole(app))
    if wrong:
        figure.lost.append(f"resumed: {wrong}")


def _shard_maker_killed(bench: Bench, app: App, figure: Figure) -> None:
    """The Keras app loads in threads; its processes make shards."""
    target = bench.new(app)
    words = shards(bench.tree(), target, "--workers", 2)
    command = bench.start(app, words)
    command.wait_until(lambda: len(children(command.process)) >= 2, pause=0.02)
    makers = children(command.process)
    time.sleep(0.5)
    for maker in makers[-1:]:
        os.kill(maker, signal.SIGKILL)
    done = command.wait()
    if not figure.count(makers and (done.status == 0 or done.sentence), f"{len(makers)} processes, {done}"):
        return
    again = bench.run(app, shards(bench.tree(), target))
    same = again.status == 0 and _contents(target) == _contents(bench.records(bench.tree()))
    if not same:
        figure.lost.append(f"made again: the shards differ, {again}")


def _contents(folder: Path) -> Dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*-of-*") if path.is_file()}


def peer_killed(bench: Bench, app: App) -> List[Figure]:
    """Kill one of two processes; started again by torchrun, or by hand under mpirun, they end as undisturbed."""
    figure = Figure("peer killed: restarted, resumed")
    whole, run = bench.new(app), bench.new(app)
    for folder in (whole, run):
        folder.parent.mkdir(parents=True)
    (status, said), _ = _on_two(bench, app, whole, None)
    if not figure.count(status == 0, f"undisturbed on two processes: {said}"):
        return [figure]
    figure.tried = 0
    (status, said), killed = _on_two(bench, app, run, 5)
    if app.name == KERAS:
        figure.count(killed and status not in (0, None), f"mpirun did not end with its process: {said}")
        (status, said), _ = _on_two(bench, app, run, None)
    wrong = said if status != 0 else traces.same_end(app, run, whole)
    figure.count(killed and not wrong, wrong or "no process was killed")
    return [figure]


def _on_two(bench: Bench, app: App, run: Path, kill_at: Optional[int]) -> Tuple[Tuple[Optional[int], str], bool]:
    """The run on two processes, one of them killed after step `kill_at`: (status, last words), whether it was."""
    python = PYTHONS[app.environment]
    more = _TWO.get(app.name, [])
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    mpirun = [str(Path(python).parent / "mpirun"), "-np", "2", python]
    launcher = mpirun if app.name == KERAS else torchrun
    words = [*launcher, *app.whole(bench.data(app), run, *more)]
    log = open(run.with_name("log"), "a+")  # noqa: SIM115 (closed below)
    process = subprocess.Popen(words, cwd=app.folder, env={**os.environ, **VARIABLES}, stdout=log, stderr=log)
    until, killed = time.monotonic() + 300, False
    while process.poll() is None and time.monotonic() < until:
        if kill_at is not None and not killed and traces.steps_done(run) >= kill_at:
            ranks = [child for child in children(process.pid) if _runs_script(child, app)]
            for rank in ranks[-1:]:
                os.kill(rank, signal.SIGKILL)
                killed = True
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
    status = process.wait() if time.monotonic() < until else None
    log.seek(0)
    said = " / ".join(line.strip() for line in log.read().splitlines() if "rror" in line)[-400:]
    log.close()
    return (status, f"status {status}, said: {said}"), killed


def _runs_script(process: int, app: App) -> bool:
    try:
        return app.script[0].encode() in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
