"""Freed blocks are used again without the system's help, unless the user has tuned malloc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

APP = Path(__file__).resolve().parent.parent.parent
# Fills and frees a block of 200 MB (above glibc's own limits) some times and prints how many pages were new.
PROGRAM = """
import ctypes, resource
from run.memory import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def use():
    block = libc.malloc(200_000_000)
    ctypes.memset(block, 1, 200_000_000)
    libc.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
MEBIBYTES = 5 * 200_000_000 / 2**20
glibc = pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="no glibc"
)


def pages(**variables: str) -> Dict[str, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=APP, env={**environment, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, faults = map(int, done.stdout.split())
    return {"kept": kept, "faults": faults}


@glibc
def test_freed_blocks_are_used_again():
    result = pages()
    assert result["kept"] == 1
    assert result["faults"] < MEBIBYTES / 100  # with pages of 2 MiB it would be half of MEBIBYTES anew


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX"])
def test_a_user_s_own_settings_stay(name):
    result = pages(**{name: "2"})
    assert result["kept"] == 0
    assert result["faults"] > MEBIBYTES / 4
