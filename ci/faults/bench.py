"""What all faults share: data, servers, run folders, and the uninterrupted run that others are compared with."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from ci.faults.apps import APPS, KERAS, App
from ci.faults.processes import ROOT, Command, Finished, Server

TRAIN_EACH, VALIDATION_EACH = 7, 4  # images of each of the ten classes


class BrokenError(Exception):
    """A command failed without any fault, so nothing can be said about faults."""


@dataclass
class Figure:
    """What came of one kind of fault in one app.

    Attributes:
        fault: what was done.
        tried: how often.
        lost: a sentence for each time that it did harm.
        measure: a number that should be 0 (bits, steps) or small, None where there is nothing to measure.
        unit: of the measure.
    """

    fault: str
    tried: int = 0
    lost: List[str] = field(default_factory=list)
    measure: Optional[float] = None
    unit: str = ""

    def count(self, fine: object, otherwise: str) -> bool:
        """Count one try; `otherwise` is what is said if it was not `fine`."""
        self.tried += 1
        if not fine:
            self.lost.append(otherwise)
        return bool(fine)


class Bench:
    """Data, servers and folders of one call of the harness, below `root`.

    Args:
        root: empty folder.
        seed: of what is done at random.
        short: whether the few counts of a test are wanted.
    """

    def __init__(self, root: Path, seed: int, short: bool) -> None:
        self.root, self.short, self._seed = root, short, seed
        self._servers: Dict[str, Server] = {}
        self._wholes: Dict[str, Path] = {}
        self._locks = {name: threading.RLock() for name in ("torch", "tensorflow", "tree", "records", *APPS)}
        self._numbers = itertools.count(1)
        (root / "logs").mkdir()

    def close(self) -> None:
        """End the servers."""
        for server in self._servers.values():
            server.close()

    def chance(self, fault: str, app: App) -> random.Random:
        """Random numbers of one fault in one app."""
        return random.Random(f"{self._seed} {fault} {app.name}")

    def new(self, app: App) -> Path:
        """A folder that is not there yet."""
        return self.root / f"{app.name}-{next(self._numbers)}" / "run"

    def server(self, environment: str) -> Server:
        """The server of an environment, started when it is first asked for."""
        with self._locks[environment]:
            if environment not in self._servers:
                self._servers[environment] = Server(environment, self.root / "logs")
            return self._servers[environment]

    def start(self, app: App, words: Sequence[object], **how: Any) -> Command:
        """Start one of an app's commands in its folder."""
        return self.server(app.environment).start(words, app.folder, **how)

    def run(self, app: App, words: Sequence[object], **how: Any) -> Finished:
        """The same, waiting for its end."""
        return self.start(app, words, **how).wait()

    def resumed(self, app: App, run: Path, *more: object) -> Command:
        """Start the app's run in `run`, from what is there."""
        return self.start(app, app.whole(self.data(app), run, *more))

    def whole(self, app: App) -> Path:
        """Folder of the run that nothing disturbs."""
        with self._locks[app.name]:
            if app.name not in self._wholes:
                run = self.new(app)
                done = self.resumed(app, run).wait()
                if done.status != 0:
                    raise BrokenError(f"{app.name} does not train undisturbed: {done}")
                self._wholes[app.name] = run
            return self._wholes[app.name]

    def data(self, app: App) -> Path:
        """The small data set as the app reads it."""
        return self.records(self.tree()) if app.name == KERAS else self.tree()

    def tree(self) -> Path:
        """Class folders with some of scikit-learn's digits."""
        with self._locks["tree"]:
            folder = self.root / "tree"
            if not folder.exists():
                digits = self.root / "digits"
                done = self.server("torch").start(["-m", "common.imagenet", "sample", digits], ROOT).wait()
                if done.status != 0:
                    raise BrokenError(f"the sample data can't be written: {done}")
                copy_some(digits / "train", folder / "train", TRAIN_EACH)
                copy_some(digits / "validation", folder / "validation", VALIDATION_EACH)
            return folder

    def records(self, tree: Path) -> Path:
        """The TFRecord shards of class folders, beside them."""
        with self._locks["records"]:
            folder = tree.with_name(tree.name + "-records")
            if not folder.exists():
                done = self.run(APPS[KERAS], shards(tree, folder))
                if done.status != 0:
                    raise BrokenError(f"no shards can be made: {done}")
            return folder


def copy_some(classes: Path, target: Path, count: int) -> None:
    """The first `count` images of each class folder."""
    for place in sorted(classes.iterdir()):
        (target / place.name).mkdir(parents=True)
        for image in sorted(place.iterdir())[:count]:
            shutil.copy(image, target / place.name)


def shards(raw: Path, target: Path, *more: object) -> List[object]:
    """The command that makes TFRecord shards."""
    words = ["preprocess_imagenet.py", "--raw_data_dir", raw, "--local_scratch_dir", target]
    workers = [] if "--workers" in more else ["--workers", 1]
    return [*words, "--train_shards", 2, "--validation_shards", 1, *workers, *more]


@contextlib.contextmanager
def opened(root: Path, seed: int, short: bool) -> Iterator[Bench]:
    """A bench whose servers end with the context."""
    bench = Bench(root, seed, short)
    try:
        yield bench
    finally:
        bench.close()
