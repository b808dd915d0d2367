"""The programs of the README, run as they are written."""

import re
from pathlib import Path

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text("utf-8"), re.DOTALL)


def test_the_example_learns(capsys):
    exec(BLOCKS[0], {"__name__": "program"})
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]


def test_the_backend_tells_its_reason(capsys):
    exec(BLOCKS[1], {"__name__": "program"})
    assert capsys.readouterr().out.startswith("poptorch: ")
