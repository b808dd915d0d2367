"""The Makefile: the C++ tests, what it builds where, and that it builds once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent
KEPT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("POPLAR_SDK_ENABLED", "CXXFLAGS", "MAKEFLAGS", "MAKELEVEL")
}


def make(folder, *words, **variables):
    return subprocess.run(
        ["make", *words],
        cwd=folder,
        env={**KEPT, "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def compiler(tmp_path):
    """A compiler that notes its arguments in `log` and writes an empty file."""
    script = tmp_path / "compiler"
    log = f"echo \"$@\" >> '{tmp_path}/log'"
    script.write_text(f'#!/bin/bash\n{log}\nwhile [ "$1" != -o ]; do shift; done\nsleep 0.3; touch "$2"\n')
    script.chmod(0o755)
    return str(script)


def test_cpp_tests_with_sanitizers():
    """Properties of the plan, and the binding grown and run on the stand-ins for the SDK."""
    done = make(SOURCE, "test")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_sdk(copy, compiler, tmp_path):
    done = make(copy, CXX=compiler)
    assert done.returncode == 0, done.stderr
    line = "The IPU library is not built: no Poplar SDK is enabled (source the enable.sh of poplar and popart)."
    assert done.stdout.splitlines()[-1] == line
    assert sorted(path.name for path in (copy / "build").iterdir()) == ["remap_host.so"]
    assert "-std=c++17" in (tmp_path / "log").read_text()
    done = make(copy, "ipu", CXX=compiler)
    assert (done.returncode, done.stdout.splitlines()[0]) == (2, line)


def test_with_the_sdk(copy, compiler, tmp_path):
    done = make(copy, CXX=compiler, CXXFLAGS="-O3 -march=native", POPLAR_SDK_ENABLED="/opt/poplar")
    assert done.returncode == 0, done.stderr
    host, ipu = (tmp_path / "log").read_text().splitlines()
    assert "host/remap_host.cpp" in host
    assert "-ltorch_cpu" in host
    assert "ipu/remap_ipu.cpp" in ipu
    assert ipu.endswith("-lpopart -lpoplar -lpopops -lpoputil -o build/remap_ipu.so")
    for command in (host, ipu):
        assert "-O3 -march=native" in command
    assert make(copy, "-q", CXX=compiler, POPLAR_SDK_ENABLED="/opt/poplar").returncode == 0  # nothing left to do


def test_clean(copy, compiler):
    assert make(copy, "clean").returncode == 0  # nothing there yet
    make(copy, "host", CXX=compiler)
    assert (copy / "build").is_dir()
    assert make(copy, "clean").returncode == 0
    assert not (copy / "build").exists()


def test_a_changed_header_builds_again():
    """Through the lists of included files that the compiler writes; headers are not handed to it as sources."""
    assert make(SOURCE, "test").returncode == 0
    assert "g++" not in make(SOURCE, "-n", "test", CXX="g++").stdout
    commands = make(SOURCE, "-n", "-W", "include/remap/attributes.hpp", "test", CXX="g++").stdout
    assert [line.split()[-1] for line in commands.splitlines() if line.startswith("g++")] == [
        "build/test_tile_plan",
        "build/stand_in_ipu.o",
        "build/test_binding",
    ]
    assert ".hpp" not in commands


def test_python_without_torch(copy, compiler):
    done = make(copy, "host", CXX=compiler, PYTHON=f"{sys.executable} -S")
    assert done.returncode == 2
    sentence = " has no torch: activate its environment, or give it as `make PYTHON=…/bin/python`."
    assert done.stderr.splitlines()[0].endswith(sentence)
    assert not list((copy / "build").glob("*.so"))


def test_processes_that_start_at_once_build_once(copy, compiler, tmp_path):
    command = [sys.executable, "-m", "common.custom_op", str(copy), "host"]
    started = [
        subprocess.Popen(command, env={**KEPT, "CXX": compiler}, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    libraries = {process.communicate(timeout=120)[0].strip() for process in started}
    assert {process.returncode for process in started} == {0}
    assert len(libraries) == 1
    assert Path(libraries.pop()).name == "remap_host.so"
    assert (tmp_path / "log").read_text().count("remap_host.cpp") == 1
