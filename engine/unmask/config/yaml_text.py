"""Reading and writing YAML, with one table of scalars for both directions.

Numbers follow the core schema of YAML 1.2: `1e6` is a number, `010` is ten, `no` and `on` are strings. `parse_yaml`
reads back exactly what `dump_yaml` writes, also strings such as `1e5`, `null` or the half surrogate of a file name.
`dump_yaml` quotes a string if this table or that of YAML 1.1, which other programs use, would read it as something
else.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from unmask.errors import ConfigError

__all__ = ["dump_yaml", "parse_yaml"]

# tag, pattern of its texts, their first characters
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", "~nN"),
)
# The tags that a configuration may use. A file with another tag (!!python/name, !!binary, !!timestamp) is refused.
_TAGS = ("null", "bool", "int", "float", "seq", "map", "str")


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Return the nested mapping in a YAML text; an empty text is an empty mapping.

    Args:
        text: YAML.
        source: name of the text in errors.
    Raises:
        ConfigError: the text is not YAML, or not a mapping.
    """
    import yaml

    way = "write a setting a line, as in 'seed: 1', those of a group below its name and indented"
    try:
        value = yaml.load(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"config: {source}, line {line}, is not YAML: {error.problem or error.context}; {way}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {source} is not YAML: {' '.join(str(error).split())}; {way}") from None
    except RecursionError:
        raise ConfigError(f"config: {source} is nested too deep or contains itself; write it without anchors") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        came = f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"config: {source} must hold settings as 'name: value' lines, got {came}")
    return value


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Return a nested mapping of plain values as YAML text, in its order, with escapes for unprintable characters."""
    import yaml

    # the width keeps long strings on one line
    return str(yaml.dump(dict(mapping), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=math.inf))


def _patterns() -> list[tuple[str, re.Pattern[str], list[str]]]:
    return [
        (f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), [*first, ""] if tag == "null" else list(first))
        for tag, pattern, first in _SCALARS
    ]


@functools.cache
def _loader() -> type[Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with only the scalars above. It refuses a name given twice and a list that contains itself."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[object] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
                if isinstance(key, str):
                    seen.add(key)
            return super().construct_mapping(node, deep)

        def construct_document(self, node: Any) -> Any:
            _refuse_cycles(node, set(), set())
            return super().construct_document(node)

    def number(convert: Any) -> Any:
        def construct(loader: Any, node: Any) -> Any:
            try:
                return convert(loader.construct_scalar(node))
            except ValueError as error:
                raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

        return construct

    # PyYAML copies an inherited table on the first addition. An empty table keeps the rules of YAML 1.1 out.
    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in _patterns():
        Loader.add_implicit_resolver(tag, pattern, first)
    known = {f"tag:yaml.org,2002:{tag}" for tag in _TAGS}
    Loader.yaml_constructors = {tag: made for tag, made in Loader.yaml_constructors.items() if tag in {*known, None}}
    Loader.add_constructor("tag:yaml.org,2002:int", number(_whole))
    Loader.add_constructor("tag:yaml.org,2002:float", number(_real))
    return Loader


@functools.cache
def _dumper() -> type[Any]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that knows the scalars above and those of YAML 1.1."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    inherited = Dumper.yaml_implicit_resolvers
    Dumper.yaml_implicit_resolvers = {}
    for tag, pattern, first in _patterns():
        Dumper.add_implicit_resolver(tag, pattern, first)
    for character, resolvers in inherited.items():
        # They come after ours, so that our numbers keep their tag.
        Dumper.yaml_implicit_resolvers.setdefault(character, []).extend(resolvers)
    # PyYAML folds some line breaks (U+0085) unless it escapes them.
    Dumper.add_representer(
        str,
        lambda dumper, value: dumper.represent_scalar(
            "tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"'
        ),
    )
    Dumper.add_representer(
        float, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", _text(value))
    )
    return Dumper


def _refuse_cycles(node: Any, above: set[Any], done: set[Any]) -> None:
    import yaml

    if node in done or not isinstance(node, yaml.CollectionNode):
        return
    if node in above:
        raise yaml.constructor.ConstructorError(None, None, "an anchor holds itself", node.start_mark)
    above.add(node)
    for item in node.value:
        for inner in item if isinstance(item, tuple) else (item,):
            _refuse_cycles(inner, above, done)
    above.remove(node)
    done.add(node)


def _whole(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(value: float) -> str:
    """Return the shortest text of this number that is not read as a whole number."""
    if math.isfinite(value):
        return repr(value)
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
