from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from common.custom_op import CustomOpError, build, load, main

MAKEFILE = """\
custom_ops.so: op.cpp op.hpp
\techo built >> {log}
\tsleep {pause}
\t$(CXX) -shared -fPIC -o $@ op.cpp
"""


@pytest.fixture
def op(tmp_path):
    """Sources of a tiny library; each run of its Makefile adds a line to `log`."""
    return write_op(tmp_path)


def write_op(tmp_path, pause=0):
    source = tmp_path / "op"
    source.mkdir()
    (source / "Makefile").write_text(MAKEFILE.format(log=tmp_path / "log", pause=pause))
    (source / "op.hpp").write_text('extern "C" int answer();\n')
    (source / "op.cpp").write_text('#include "op.hpp"\nint answer() { return 41 + 1; }\n')
    return source


def builds(source):
    log = source.parent / "log"
    return log.read_text().count("built") if log.exists() else 0


def test_build_load_and_call(op):
    path = build(op)
    assert (path.name, path.parent.parent) == ("custom_ops.so", op / "build")
    load(path)
    assert ctypes.CDLL(str(path)).answer() == 42
    assert sorted(os.listdir(op)) == ["Makefile", "build", "op.cpp", "op.hpp"]  # nothing else is left in the sources
    assert not list((op / "build").glob("*.tmp"))


def test_built_once_and_again_when_a_source_changes(op):
    first = build(op)
    assert build(str(op)) == first
    assert builds(op) == 1
    (op / "op.cpp").write_text('#include "op.hpp"\nint answer() { return 43; }\n')
    second = build(op)
    assert (builds(op), second != first) == (2, True)
    assert ctypes.CDLL(str(second)).answer() == 43
    (op / "op.hpp").rename(op / "other.hpp")
    with pytest.raises(CustomOpError, match=r"op\.hpp"):
        build(op)


def test_other_tools_build_again(op, monkeypatch):
    first = build(op)
    monkeypatch.setenv("CXXFLAGS", "-O1")
    assert build(op) != first
    assert builds(op) == 2


def test_tests_and_texts_are_no_sources(op):
    build(op)
    (op / "README.md").write_text("what it does")
    (op / "tests").mkdir()
    (op / "tests/test.cpp").write_text("int main() {}")
    build(op)
    assert builds(op) == 1


def test_another_torch_builds_again(op, monkeypatch):
    """Its C++ interface changes with the version. Without torch it builds too."""
    libraries = {build(op)}
    monkeypatch.setattr("common.custom_op.metadata.version", lambda name: {"torch": "0.1"}[name])
    libraries.add(build(op))

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("common.custom_op.metadata.version", missing)
    libraries.add(build(op))
    assert len(libraries) == builds(op) == 3


def test_targets_are_built_apart(op):
    """Each leaves one library; PYTHON is the one that builds."""
    (op / "Makefile").write_text("a b:\n\t$(CXX) -shared -fPIC -o $@.so op.cpp\n")
    assert [build(op, target).name for target in ("a", "b")] == ["a.so", "b.so"]
    (op / "Makefile").write_text("a:\n\ttest '$(PYTHON)' = '" + sys.executable + "'\n\ttouch $@.so\n")
    assert build(op, "a").name == "a.so"


def test_command_line(op, capsys, tmp_path):
    output = tmp_path / "here.so"
    main([str(op), "--output", str(output)])
    assert ctypes.CDLL(str(output)).answer() == 42
    main([str(op), "custom_ops.so"])
    first, second = capsys.readouterr().out.split()
    assert first == str(output)
    assert Path(second).name == "custom_ops.so"
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(SystemExit, match="has no Makefile: pass the folder"):
        main([str(tmp_path)])


def test_options_of_an_outer_make_are_not_passed_on(op, monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "n")  # dry run
    assert build(op).is_file()


def test_processes_that_start_at_once_build_once(tmp_path):
    source = write_op(tmp_path, pause=0.5)
    code = f"import ctypes, common.custom_op as op; print(ctypes.CDLL(str(op.build({str(source)!r}))).answer())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in running] == [b"42\n"] * 4
    assert builds(source) == 1


def test_a_builder_that_was_killed_does_not_block_the_next(tmp_path):
    source = write_op(tmp_path, pause=30)
    code = f"from common.custom_op import build; build({str(source)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while not builds(source):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    text = (source / "Makefile").read_text()
    (source / "Makefile").write_text(text.replace("sleep 30", "sleep 0"))
    assert ctypes.CDLL(str(build(source))).answer() == 42


def test_no_sources(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CustomOpError) as caught:
            build(path)
        assert str(caught.value) == f"{path} has no Makefile: pass the folder with the op's sources."
    assert list(tmp_path.iterdir()) == []


def test_failed_build_shows_the_compiler_and_is_tried_again(op):
    good = (op / "op.cpp").read_text()
    (op / "op.cpp").write_text("int answer() { return nonsense; }\n")
    for _ in range(2):
        with pytest.raises(CustomOpError) as caught:
            build(op)
        text = str(caught.value)
        assert text.startswith(f"make failed in a copy of {op}: correct what it says.\n")
        assert "nonsense" in text
    assert builds(op) == 2
    (op / "op.cpp").write_text(good)
    assert build(op).is_file()
    assert not list((op / "build").glob("*.tmp"))


@pytest.mark.parametrize(("recipe", "number"), [("true", 0), ("touch a.so b.so", 2)])
def test_makefile_must_make_one_library(op, recipe, number):
    (op / "Makefile").write_text(f"all:\n\t{recipe}\n")
    with pytest.raises(CustomOpError, match=f"left {number} .so files: it must make exactly one"):
        build(op)


def test_without_make(op, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CustomOpError, match=r"make is not on PATH: install make and g\+\+\."):
        build(op)


def test_folder_that_cannot_be_written(op):
    (op / "build").write_text("a file in the way")
    with pytest.raises(CustomOpError, match=rf"cannot be made \(.*\): use a writable copy of {op}\."):
        build(op)


def test_loading_what_is_no_library(tmp_path):
    path = Path(tmp_path, "no.so")
    path.write_bytes(b"no")
    with pytest.raises(CustomOpError, match=r"no\.so cannot be loaded \(.*\): build it again on this machine\."):
        load(path)
