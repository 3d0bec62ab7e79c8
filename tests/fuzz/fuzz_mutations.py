"""What goes wrong with a file, as plain data: a failing case prints as a literal that can stand in a test.

A case starts from a good file that the test makes. Bytes are cut, flipped, repeated and swapped at a place given as a
share of the file; values of a JSON tree are replaced, removed, renamed and wrapped at a node that a path of numbers
finds, each number taken modulo the children that there are. So every drawn case applies to every file.
"""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

__all__ = ["ODD", "byte_changes", "change_bytes", "change_tree", "odd_values", "tree_changes"]

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2**31,
    10**30,
    0.5,
    1.0,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "x",
    "é",
    "\ud800",
    "\0",
    "\ufeff",
    "a\nb",
    "[MASK]",
    "##",
    "none",
    "1e-3",
    "../x",
    "/etc/hostname",
    "x" * 3000,
    [],
    [None],
    [[]],
    ["x", "x"],
    {},
    {"": ""},
    {"type": "x"},
)
_PIECES = (
    b"",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\r\n",
    b"\n\n",
    b'"',
    b"{",
    b"]",
    b"\\ud800",
    b"# ",
    b"- ",
    b": ",
)

odd_values = st.integers(0, len(ODD) - 1)
_place = st.integers(0, 999)
byte_changes = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), _place),
        st.tuples(st.just("flip"), _place, st.integers(0, 7)),
        st.tuples(st.just("insert"), _place, st.sampled_from(_PIECES)),
        st.tuples(st.just("remove"), _place, st.integers(1, 40)),
        st.tuples(st.just("repeat"), _place, st.integers(1, 40)),
        st.tuples(st.just("swap lines"), _place, _place),
        st.tuples(st.just("repeat line"), _place),
        st.tuples(st.just("remove line"), _place),
        st.tuples(st.just("zero"), _place, st.integers(1, 40)),
    ),
    max_size=3,
)
tree_changes = st.lists(
    st.tuples(
        st.sampled_from(("replace", "remove", "rename", "wrap", "copy", "deepen")),
        st.lists(st.integers(0, 30), min_size=1, max_size=5),
        odd_values,
    ),
    max_size=3,
)


def change_bytes(content: bytes, changes: list[tuple[Any, ...]]) -> bytes:
    """`content` after every change, in order."""
    for kind, place, *more in changes:
        at = place * len(content) // 1000
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ 1 << more[0]]) + content[at + 1 :]
        elif kind == "insert":
            content = content[:at] + more[0] + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + more[0] :]
        elif kind == "repeat":
            content = content[: at + more[0]] + content[at:]
        elif kind == "zero":
            content = content[:at] + bytes(len(content[at : at + more[0]])) + content[at + more[0] :]
        elif kind.endswith(("line", "lines")):
            lines = content.split(b"\n")
            one = place * len(lines) // 1000
            if kind == "swap lines":
                other = more[0] * len(lines) // 1000
                lines[one], lines[other] = lines[other], lines[one]
            else:
                lines[one : one + 1] = [lines[one]] * 2 if kind == "repeat line" else []
            content = b"\n".join(lines)
    return content


def change_tree(tree: Any, changes: list[tuple[str, list[int], int]]) -> Any:
    """A copy of a JSON tree after every change, in order."""
    root = [copy.deepcopy(tree)]
    for kind, path, odd in changes:
        holder: Any = root
        key: Any = 0
        for step in path[1:]:
            child = holder[key]
            if not isinstance(child, dict | list) or not child:
                break
            keys = list(child) if isinstance(child, dict) else range(len(child))
            holder, key = child, keys[step % len(keys)]
        _change_node(holder, key, kind, copy.deepcopy(ODD[odd % len(ODD)]))
        if not root:
            root = [None]
    return root[0]


def _change_node(holder: Any, key: Any, kind: str, odd: Any) -> None:
    if kind == "replace":
        holder[key] = odd
    elif kind == "wrap":
        holder[key] = [holder[key]]
    elif kind == "deepen":
        holder[key] = {"x": holder[key]}
    elif kind == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]) if kind == "copy" else odd)
    else:
        name = odd if isinstance(odd, str) else str(odd)
        holder[name] = copy.deepcopy(holder[key]) if kind == "copy" else holder.pop(key)
