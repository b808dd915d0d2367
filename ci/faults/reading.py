"""python -m ci.faults.reading RUN ORDERS REPORT, in an app's folder: the checkpoint that it finds after each damage.

ORDERS is a list of [file, bit to flip or -1, size to cut to]; each is undone before the next. REPORT gets what was
found: the checkpoint's name, the error's first words, or the exception that should not have been.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any, Callable


def main() -> None:
    """Read the orders, damage, look, undo, report."""
    run, orders, report = map(Path, sys.argv[1:])
    find, user_error = _reader()
    found = []
    for name, bit, size in json.loads(orders.read_text()):
        path = Path(name)
        whole = path.read_bytes()
        path.write_bytes(_flipped(whole, bit) if bit >= 0 else whole[:size])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found.append(Path(find(run)).name)
        except user_error as error:
            found.append(f"error: {error}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
        path.write_bytes(whole)
    report.write_text(json.dumps(found))


def _reader() -> Any:
    """The app's function from a run folder to its newest intact checkpoint, and its class of errors."""
    try:
        from run.checkpoints import find
        from run.errors import UserError
    except ImportError:  # the Keras app
        from checkpoints import find
        from errors import UserError
    found: Callable[..., Any] = find
    return found, UserError


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


if __name__ == "__main__":
    main()
