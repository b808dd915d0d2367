"""The commands of a README, so that a test can run each one as a newcomer would.

Commands are the lines of ```bash blocks. An HTML comment right above a block says what a test does with it:

    <!-- test: --training-steps 2 -->   run each line with these arguments added, so that it ends soon
    <!-- test: skip REASON -->          not run, for the reason given

A block without such a comment is run as it stands.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, NamedTuple

BLOCK = re.compile(r"(?:<!-- test: (?P<note>.*?) -->\s*\n)?```(?:bash|console)\n(?P<body>.*?)```", re.DOTALL)


class Command(NamedTuple):
    """A line of a README's block: the text, what a test adds to it, and why it is not run ("" if it is)."""

    text: str
    extra: str
    skipped: str

    @property
    def to_run(self) -> str:
        """The line with what the test adds."""
        return (f"{self.text} {self.extra}").strip()


def commands(readme: Path) -> List[Command]:
    """Every command of the README, in order; lines that end in a backslash are joined."""
    return [command for block in blocks(readme) for command in block]


def blocks(readme: Path) -> List[List[Command]]:
    """The same, block by block."""
    found = []
    for block in BLOCK.finditer(readme.read_text()):
        note = (block["note"] or "").strip()
        skipped = note[len("skip") :].strip() if note.startswith("skip") else ""
        lines = block["body"].replace("\\\n", " ").splitlines()
        texts = [" ".join(line.split("#")[0].split()) for line in lines]
        found.append([Command(text, "" if skipped else note, skipped) for text in texts if text])
    return found
