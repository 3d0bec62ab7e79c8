"""Reading and writing YAML 1.2: `1e6` is a number, `010` is ten, `no` and `on` are text.

`parse_yaml` reads back exactly what `dump_yaml` writes, also text such as `1e5`, `null` or the half surrogate of a file
name. `dump_yaml` quotes all text that YAML 1.1, which other programs read, might take for something else.
"""

import functools
import io
import math
import re
from collections.abc import Mapping
from typing import Any

from unmask.errors import ConfigError

__all__ = ["dump_yaml", "lines_of", "parse_yaml"]

_WAY = (
    "write a setting a line, as in 'seed: 1', those of a group below its name and indented, and put text with signs "
    "such as { [ , : # in quotes"
)
# Text that stands without quotes: words and paths, but not the words that some version of YAML reads as something else.
_PLAIN = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z_/](?:[\w./-]| (?=[\w./-]))*\Z", re.ASCII)


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Return the nested mapping in a YAML text; an empty text is an empty mapping.

    Args:
        text: YAML.
        source: name of the text in errors.
    Raises:
        ConfigError: the text is not YAML, or not a mapping.
    """
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        value = _yaml().load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"config: {source}, line {line}, is not YAML: {error.problem or error.context}; {_WAY}"
        ) from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"config: {source} is not YAML: {' '.join(str(error).split())}; {_WAY}") from None
    except RecursionError:
        raise ConfigError(f"config: {source} is nested too deep; {_WAY}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        came = f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"config: {source} must hold settings as 'name: value' lines, got {came}")
    return value


def lines_of(text: str) -> dict[str, int]:
    """Return the lines, counted from 1, of the names in a YAML text and in its groups: {"train.steps": 3}."""
    found: dict[str, int] = {}
    root = _yaml().compose(text)
    for key, value in getattr(root, "value", ()):
        found[str(key.value)] = key.start_mark.line + 1
        if isinstance(value.value, list):
            inner = (pair[0] for pair in value.value if isinstance(pair, tuple))
            found |= {f"{key.value}.{one.value}": one.start_mark.line + 1 for one in inner}
    return found


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Return a nested mapping of plain values as YAML text, in its order, with escapes for unprintable characters."""
    written = io.StringIO()
    _yaml().dump(dict(mapping), written)
    return written.getvalue()


# The scalars of YAML 1.2's core schema: tag, pattern, first characters. ruamel.yaml alone also reads 1_000 and dates.
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", "~nN"),
)
_TAGS = ("null", "bool", "int", "float", "seq", "map", "str")


@functools.cache
def _classes() -> tuple[type[Any], type[Any], type[Any]]:
    """Return a resolver, a constructor and a representer that know YAML 1.2's core schema and nothing else."""
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.representer import SafeRepresenter
    from ruamel.yaml.resolver import BaseResolver

    class Resolver(BaseResolver):
        """Follows the table above, whatever version a file names."""

        def __init__(self, version: Any = None, loader: Any = None) -> None:
            super().__init__(loader)

        processing_version = (1, 2)

    for tag, pattern, first in _SCALARS:
        characters = [*first, ""] if tag == "null" else list(first)
        Resolver.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), characters)

    class Constructor(SafeConstructor):
        """Makes values of the tags above; a file with another tag (!!python/name, !!binary) is refused."""

    known = {*(f"tag:yaml.org,2002:{tag}" for tag in _TAGS), None}
    Constructor.yaml_constructors = {
        tag: made for tag, made in SafeConstructor.yaml_constructors.items() if tag in known
    }

    class Representer(SafeRepresenter):
        """Quotes text that could be taken for something else."""

        def ignore_aliases(self, data: Any) -> bool:
            # a list given twice is written twice, without anchors
            return True

    Representer.add_representer(
        str,
        lambda representer, text: representer.represent_scalar(
            "tag:yaml.org,2002:str", text, style=None if _PLAIN.match(text) else '"'
        ),
    )
    Representer.add_representer(
        float, lambda representer, value: representer.represent_scalar("tag:yaml.org,2002:float", _text(value))
    )
    return Resolver, Constructor, Representer


def _yaml() -> Any:
    """Return a reader and writer. It is made for each text, since it keeps what a text said of its version."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor, yaml.Representer = _classes()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    # long text stays on one line
    yaml.width = 2**31
    return yaml


def _text(value: float) -> str:
    """Return the shortest text of this number that is not read as a whole number."""
    if math.isfinite(value):
        return repr(value)
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
