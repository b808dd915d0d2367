"""configs.yml: named entries, each for the scripts it names, over defaults for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping

import yaml

from .errors import UsageError
from .option_values import Field, nearest

DEFAULTS = "defaults"
ABOUT = ("script", "about")  # keys of an entry that are no options


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here they are an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # an entry's own keys stand over those that it takes from another
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, "%s is there twice" % key, key_node.start_mark)
            seen.add(key)
        self.flatten_mapping(node)
        return super().construct_mapping(node, deep)


class ConfigFile:
    """The entries of a file.

    Raises:
        UsageError: it can't be read or isn't a mapping of mappings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, encoding="utf-8") as file:
                content = yaml.load(file, Loader=_UniqueKeys)
        except OSError as error:
            raise UsageError("%s can't be read (%s)" % (path, error.strerror)) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError("%s is no valid YAML: %s" % (path, " ".join(str(error).split()))) from error
        content = content or {}
        if not isinstance(content, dict) or not all(
            isinstance(entry, (dict, type(None))) for entry in content.values()
        ):
            raise UsageError("%s: each entry must be a name with keys below it" % path)
        self._defaults: Dict[str, Any] = content.pop(DEFAULTS, None) or {}
        self.entries: Dict[str, Dict[str, Any]] = {str(name): entry or {} for name, entry in content.items()}

    def scripts(self, name: str) -> List[str]:
        """Scripts that an entry is for; none means all."""
        script = self.entries[name].get("script", [])
        return [script] if isinstance(script, str) else list(script)

    def describe(self) -> str:
        """A line for each entry: name, script and what it says about itself."""
        rows = [
            (name, ", ".join(self.scripts(name)), str(entry.get("about", ""))) for name, entry in self.entries.items()
        ]
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        return "\n".join(("%-*s  %-*s  %s" % (widths[0], row[0], widths[1], row[1], row[2])).rstrip() for row in rows)

    def values(
        self, name: str, *, script: str, fields: Mapping[str, Field], refused: Mapping[str, str]
    ) -> Dict[str, Any]:
        """Option → value of an entry over the defaults.

        Raises:
            UsageError: no such entry, it is for another script, or a key or value is wrong.
        """
        if name not in self.entries:
            known = ", ".join(self.entries)
            raise UsageError(
                "no config %s in %s%s (there are: %s)" % (name, self.path, nearest(name, self.entries), known)
            )
        scripts = self.scripts(name)
        if scripts and script not in scripts:
            raise UsageError("config %s is for %s, not %s: start that" % (name, " and ".join(scripts), script))
        # Keys of the defaults may be those of another script, if the file serves another one.
        shared = any(set(self.scripts(entry)) - {script} for entry in self.entries)
        values = self._convert(DEFAULTS, self._defaults, fields, refused, lenient=shared)
        own = {key: value for key, value in self.entries[name].items() if key not in ABOUT}
        values.update(self._convert(name, own, fields, refused, lenient=False))
        return values

    def _convert(
        self,
        entry: str,
        given: Mapping[Any, Any],
        fields: Mapping[str, Field],
        refused: Mapping[str, str],
        lenient: bool,
    ) -> Dict[str, Any]:
        names = {alias: field for field in fields.values() for alias in (field.name, *field.aliases)}
        values: Dict[str, Any] = {}
        for key, value in given.items():
            name = str(key).replace("-", "_")
            place = "%s, %s: %s" % (self.path, entry, key)
            if name in refused:
                if entry != DEFAULTS:
                    raise UsageError("%s has no effect: %s" % (place, refused[name]))
            elif name in names and name != "config":
                if names[name].name in values:
                    raise UsageError("%s is there twice, under another name" % place)
                values[names[name].name] = checked(names[name], value, place)
            elif not lenient:
                raise UsageError("%s is no option%s" % (place, nearest(name, names)))
        return values


def checked(field: Field, given: Any, place: str) -> Any:
    """Value of a field; what is wrong with it becomes a usage error that names the place."""
    try:
        return field.value(given)
    except ValueError as error:
        raise UsageError("%s: %s" % (place, error)) from error
