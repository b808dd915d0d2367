"""Print the options of scripts of the app in the current folder as JSON; test_docs.py runs it in the app's environment.

Arguments: SCRIPT:MODULE:CLASS, one for each script. Printed: {"options": {script: {name: [aliases, default]}},
"refused": [names]}; a default is written as --help writes it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from typing import Any, Dict, List, Tuple


def of_torch_app(options: Any) -> Dict[str, Tuple[List[str], str]]:
    """Options of a dataclass of `run.options`."""
    from run.option_text import literal
    from run.option_values import REQUIRED, fields_of

    fields = fields_of(options).items()
    return {
        name: (list(field.aliases), "required" if field.default is REQUIRED else literal(field.default))
        for name, field in fields
    }


def of_tensorflow_app(options: Any) -> Dict[str, Tuple[List[str], str]]:
    """Options of a dataclass of the TensorFlow app's `command_line`."""
    return {
        field.name: ([alias.lstrip("-") for alias in field.metadata["aliases"]], _shown(field))
        for field in dataclasses.fields(options)
        if field.metadata
    }


def _shown(field: Any) -> str:
    return field.metadata["shown"] or ('""' if field.default == "" else str(field.default))


def refused() -> List[str]:
    """Flags that a torch app's options.py turns down with a reason."""
    module = importlib.import_module("options")
    tables = [value for name, value in vars(module).items() if name.startswith("REFUSED")]
    return sorted({name for table in tables for name in table})


def main() -> None:
    """Read and print."""
    sys.path.insert(0, os.getcwd())
    is_torch = os.path.isdir("run")
    found = {}
    for argument in sys.argv[1:]:
        script, module, name = argument.split(":")
        options = getattr(importlib.import_module(module), name)
        found[script] = of_torch_app(options) if is_torch else of_tensorflow_app(options)
    print(json.dumps({"options": found, "refused": refused() if is_torch else []}))


if __name__ == "__main__":
    main()
