"""Options from outside a program, POPTORCH_DEFAULT_OPTIONS and `Options.loadFromFile`, without `exec`."""

from __future__ import annotations

import ast
import enum
import json
import os
from typing import Any

from poptorch_host import enums, execution, tensor_locations


class ConfigFileError(Exception):
    """A line of an options file, or an entry of POPTORCH_DEFAULT_OPTIONS, that can't be applied."""


def apply_json(options: Any, text: str) -> None:
    """Apply {"setter": argument, "Group.setter": [arguments], …}; strings "Enum.Member" become members."""
    try:
        entries = json.loads(text).items()
    except (json.JSONDecodeError, AttributeError) as error:
        raise ConfigFileError(f"POPTORCH_DEFAULT_OPTIONS is no JSON object: {error}") from error
    for name, value in entries:
        setter = options
        for part in name.split("."):
            setter = getattr(setter, part, None)
        if not callable(setter):
            raise ConfigFileError(f"POPTORCH_DEFAULT_OPTIONS: Options have no setter {name}")
        setter(*(_member(a) for a in (value if isinstance(value, list) else [value])))


def _member(value: Any) -> Any:
    """Return the enumeration member that a string such as "OutputMode.All" names, anything else unchanged."""
    if not isinstance(value, str) or value.count(".") != 1:
        return value
    kind, member = value.split(".")
    enumeration = getattr(enums, kind, None)
    if isinstance(enumeration, enum.EnumMeta) and member in enumeration.__members__:
        return enumeration[member]
    return value


def apply_file(options: Any, path: str) -> None:
    """Apply a file of setter calls, one in a line, without "options."; skip blank lines and comments."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        try:
            _evaluate(ast.parse("options." + line.strip(), mode="eval").body, options)
        except (SyntaxError, ValueError, AttributeError, TypeError, AssertionError) as error:
            where = f"line {number} of {os.path.basename(path)}"
            raise ConfigFileError(f"{type(error).__name__} at {where}: {error}\n> {line.strip()}") from error


def _evaluate(node: ast.expr, options: Any) -> Any:
    """Return the value of a literal, of `poptorch.X.Y`, or of a call `options.…()` or `poptorch.…()`."""
    if isinstance(node, ast.Call):
        keywords = {str(k.arg): _evaluate(k.value, options) for k in node.keywords}
        return _evaluate(node.func, options)(*(_evaluate(a, options) for a in node.args), **keywords)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "poptorch":
            return _public(node.attr)
        if node.attr.startswith("__"):
            raise ValueError(f"{node.attr} can't be used here")
        return getattr(_evaluate(node.value, options), node.attr)
    if isinstance(node, ast.Name) and node.id == "options":
        return options
    return ast.literal_eval(node)


def _public(name: str) -> Any:
    """Return what `poptorch.<name>` means in an options file: an enumeration, a strategy or a location."""
    for module in (enums, execution, tensor_locations):
        if isinstance(getattr(module, name, None), type):
            return getattr(module, name)
    raise ValueError(f"poptorch.{name} can't be used here")
