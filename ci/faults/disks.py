"""Disks that are full or read-only: one sentence, and nothing that was saved is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Callable, Iterator, List, Optional

from ci.faults import traces
from ci.faults.apps import App
from ci.faults.bench import Bench, BrokenError, Figure


def full(bench: Bench, app: App) -> List[Figure]:
    """Run out of space at several moments; with more space the run goes on and ends as undisturbed.

    The disk is a small file system in memory where this process may mount one, else files can't grow beyond a limit.
    """
    sizes = [40, 250] if bench.short else [8, 60, 200, 400, 800]  # KiB
    figure = Figure("disk full: one sentence, then resumed")
    for size in sizes:
        run = bench.new(app)
        run.parent.mkdir(parents=True)
        with mounted(run.parent, size) as grow:
            limit = None if grow else 1024 * size // 4
            done = bench.start(app, app.whole(bench.data(app), run), file_limit=limit).wait()
            if done.status == 0:
                continue  # it was enough
            if not figure.count(done.sentence, f"{size} KiB: {done}"):
                continue
            if grow:
                grow()
            again = bench.resumed(app, run).wait()
            wrong = str(again) if again.status != 0 else traces.same_end(app, run, bench.whole(app))
            if wrong:
                figure.lost.append(f"resumed after {size} KiB were full: {wrong}")
    if not figure.tried:
        raise BrokenError(f"{app.name} runs out of space on none of these disks: make them smaller")
    return [figure]


@contextlib.contextmanager
def mounted(folder: Path, size: int, *, read_only: bool = False) -> Iterator[Optional[Callable[[], bool]]]:
    """A file system of `size` KiB at `folder`; gives a function that makes it large, or None if there is none."""
    options = f"size={size}k,mode=755"
    made = _mount("-t", "tmpfs", "-o", options + (",ro" if read_only else ""), "faults", str(folder))
    try:
        yield (lambda: _mount("-o", "remount,size=512m", str(folder))) if made else None
    finally:
        if made:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(*words: str) -> bool:
    if os.geteuid():
        return False
    with contextlib.suppress(OSError):
        return subprocess.run(["mount", *words], stderr=subprocess.DEVNULL, check=False).returncode == 0
    return False


def read_only(bench: Bench, app: App) -> List[Figure]:
    """A run folder that can't be made: on a read-only disk, below a file, in /proc."""
    figure = Figure("read-only folders: one sentence")
    folder = bench.new(app).parent
    (folder / "disk").mkdir(parents=True)
    (folder / "file").write_text("")
    with mounted(folder / "disk", 100, read_only=True) as disk:
        places = [folder / "file" / "run", Path("/proc/nowhere/run"), *([folder / "disk" / "run"] if disk else [])]
        for run in places[:1] if bench.short else places:
            done = bench.run(app, app.whole(bench.data(app), run))
            figure.count(done.sentence, f"{run}: {done}")
    return [figure]
