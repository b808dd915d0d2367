"""Options as text: --help and the table that is printed before a run."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Mapping, get_args

from .option_values import REQUIRED, Field, plain

_LETTERS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def usage(
    script: str,
    description: str,
    fields: Mapping[str, Field],
    values: Mapping[str, Any],
    *,
    config: bool = True,
    rest: str = "",
) -> str:
    """The --help text.

    Args:
        script: name of the script.
        description: what it does.
        fields: options to show, by name.
        values: what an option is if it is not given, by name.
        config: whether there is a config file.
        rest: the option that takes the words which belong to no flag.
    """
    width = max(60, min(120, shutil.get_terminal_size((110, 24)).columns))
    words = ["--config NAME"] * config + ["[--option VALUE …]"] + ["[%s …]" % rest.upper()] * bool(rest)
    parts = ["usage: %s %s\n" % (script, " ".join(words)), textwrap.fill(description, width) + "\n"]
    shows = "show this, with the values of --config if one is given" if config else "show this"
    special = ["Help", _entry("-h, --help", shows, width)]
    if config:
        special.append(_entry("--list-configs", "list the entries of the config file", width))
    parts.append("\n".join(special) + "\n")
    for title, members in _groups(fields).items():
        entries = [_entry(_signature(field), _meaning(field, values[field.name]), width) for field in members]
        parts.append("\n".join([title, *entries]) + "\n")
    return "\n".join(parts)


def table(fields: Mapping[str, Field], values: Mapping[str, Any]) -> str:
    """Names and values, by group."""
    lines: List[str] = []
    width = max(len(name) for name in fields)
    for title, members in _groups(fields).items():
        lines.append(title)
        for field in members:
            unit = " " + field.unit if field.unit and values[field.name] is not None else ""
            lines.append("  %-*s  %s%s" % (width, field.name, literal(values[field.name]), unit))
    return "\n".join(lines)


def literal(value: Any) -> str:
    """A value as it would be given on the command line."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(literal(item) for item in value) or "[]"
    return str(plain(value)) if value != "" else '""'


def _groups(fields: Mapping[str, Field]) -> Dict[str, List[Field]]:
    groups: Dict[str, List[Field]] = {}
    for field in fields.values():
        groups.setdefault(field.group, []).append(field)
    return groups


def _signature(field: Field) -> str:
    if field.is_flag:
        return "%s [true|false]" % field.flag
    hint = field.hint
    while get_args(hint):  # Optional[List[int]] -> List[int] -> int
        hint = get_args(hint)[0]
    letter = _LETTERS[hint] if field.choices is None else "{%s}" % ",".join(str(choice) for choice in field.choices)
    return "%s %s%s" % (field.flag, letter, " …" if field.is_list else "")


def _meaning(field: Field, value: Any) -> str:
    unit = " [%s]" % field.unit if field.unit else ""
    also = "".join("; also --%s" % alias.replace("_", "-") for alias in field.aliases)
    also += "; only %s" % field.only.where if field.only else ""
    default = "required" if value is REQUIRED else "default: %s" % literal(value)
    return "%s%s%s (%s)" % (field.help, unit, also, default)


def _entry(signature: str, meaning: str, width: int) -> str:
    indent = " " * 34
    wrapped = textwrap.fill(meaning, width, initial_indent=indent, subsequent_indent=indent)
    head = "  " + signature
    return head.ljust(34) + wrapped[34:] if len(head) < 33 else head + "\n" + wrapped
