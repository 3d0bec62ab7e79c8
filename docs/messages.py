"""The sentences that the code may show, read from its syntax; nothing of the project is imported.

Every call of an error class in engine/ and kernels/ is found, and what tells of a notice. A message is followed through
the names, functions and conditions that it is put together from, so that one call may give several sentences; what only
a run can know becomes a word between two marks.
"""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["CLOSE", "OPEN", "ROOT", "Code", "Message"]

ROOT = Path(__file__).resolve().parent.parent

PLAIN = {"ValueError", "TypeError", "IndexError", "BackendUnavailable"}
# what errors of the kernels may come from, and is raised by no name of its own
BASE = "RuntimeError"
# a value with more alternatives than this is shown as a word, unless each of them is a sentence, of this many blanks
MOST_ALTERNATIVES = 4
SENTENCE = 2
# the marks of what only a run knows; they stand in no message
OPEN, CLOSE = "\x02", "\x03"
# words for values of any type, which have no quotes
ANYTHING = {"value", "chosen", "item", "input", "mapping", "function", "found", "needed", "window", "requested"}
# functions whose first argument is a sentence that is shown while the work goes on, and one that ends it
NOTICES = {"info": "notice", "warning": "notice", "warn": "notice", "print": "notice"}
ENDS = {"_fail": "UnmaskError"}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A sentence that may be shown: the class of the error, the text with its marks, the file that it comes from."""

    kind: str
    text: str
    module: str
    within: bool = False
    """Whether it is a reason that stands in another sentence, which has the way out."""


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: its module, the functions around it, and what is known of names there."""

    module: "Module"
    function: ast.FunctionDef | None = None
    known: Mapping[str, list[str] | None] = field(default_factory=dict)
    depth: int = 0
    following: frozenset[tuple[str, str]] = frozenset()

    def deeper(self, **changes: Any) -> "Scope":
        """The same place one step on, which ends the pursuit of what comes back to itself."""
        return replace(self, depth=self.depth + 1, **changes)


class Module:
    """The syntax of one file."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.name = path.relative_to(root).as_posix()
        self.tree = ast.parse(path.read_text("utf-8"))
        self.around: dict[ast.AST, ast.AST] = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self.constants = dict(_assigned(self.tree.body))
        self.imports = {
            one.name for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) for one in node.names
        }

    def function_of(self, node: ast.AST) -> ast.FunctionDef | None:
        """The innermost function around a node."""
        while node in self.around:
            node = self.around[node]
            if isinstance(node, ast.FunctionDef):
                return node
        return None

    def arguments_of(self, function: ast.FunctionDef) -> list[str]:
        """The names of the arguments that a caller gives."""
        names = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        is_method = isinstance(self.around[function], ast.ClassDef)
        return names[1:] if is_method and names[:1] in (["self"], ["cls"]) else names


def _assigned(body: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                yield from ((one.id, value) for one, value in zip(names, values, strict=False) if hasattr(one, "id"))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                yield name, value


class Code:
    """All modules, and the texts that their expressions may have."""

    def __init__(self, root: Path = ROOT) -> None:
        found = sorted(path for folder in ("engine", "kernels") for path in (root / folder).rglob("*.py"))
        # what tests and benches share raises what its own users mend: developers
        self.modules = [Module(path, root) for path in found if "testing" not in path.parts]
        self.functions: dict[str, list[tuple[Module, ast.FunctionDef]]] = defaultdict(list)
        self.calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        for module in self.modules:
            for name, function in module.functions.items():
                self.functions[name].append((module, function))
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call) and (called := _called(node)):
                    self.calls[called].append((module, node))

    @cached_property
    def classes(self) -> dict[str, str]:
        """Names of error classes, each with the public one that it is or comes from."""
        bases = {
            node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
        }
        known = {name: name for name in (*PLAIN, "UnmaskError", BASE)}
        for _ in bases:
            for name, above in bases.items():
                if name not in known and above and above[0] in known:
                    known[name] = known[above[0]] if name.startswith("_") else name
        # those of arguments are details of a reader's
        private = {name for name, kind in known.items() if name.startswith("_") and kind in PLAIN}
        return {name: kind for name, kind in known.items() if name not in {BASE, *private}}

    def errors(self) -> list[Message]:
        """Every message of every error."""
        return [*self._messages(self.classes | ENDS), *self._problems()]

    def _problems(self) -> list[Message]:
        """What is wrong with a setting: functions yield its name and the problem, and one place raises both."""
        found = []
        for module in self.modules:
            for function in module.functions.values():
                returns = "" if function.returns is None else ast.unparse(function.returns)
                if returns != "Iterator[tuple[str, str]]" or "/config/" not in module.name:
                    continue
                kind = "SettingTypeError" if "type" in function.name else "SettingError"
                pairs = [node.value for node in ast.walk(function) if isinstance(node, ast.Yield)]
                pairs += [node.elt for node in ast.walk(function) if isinstance(node, ast.GeneratorExp)]
                for pair in pairs:
                    if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
                        scope = Scope(module, function)
                        names = self._few(pair.elts[0], scope)
                        problems = self._few(pair.elts[1], scope)
                        texts = [f"{name or self.SETTING} {text}" for name in names for text in problems]
                        found += [Message(kind=kind, text=" ".join(text.split()), module=module.name) for text in texts]
        return _distinct(found)

    SETTING = f"{OPEN}setting{CLOSE}"

    def notices(self) -> list[Message]:
        """Every sentence that is said while the work goes on."""
        return self._messages(NOTICES)

    def reasons(self) -> list[Message]:
        """What backends say against a call: the texts that functions named for refusals or reasons return."""
        found = []
        for module in self.modules:
            if not module.name.startswith("kernels/"):
                continue
            for function in module.functions.values():
                if not re.search(r"refus|reason|_reads_lengths", function.name):
                    continue
                for node in ast.walk(function):
                    texts = [node.args[0]] if isinstance(node, ast.Call) and _called(node) == "append" else []
                    if isinstance(node, ast.Return) and isinstance(node.value, ast.List):
                        texts = node.value.elts
                    for text in self._any(texts, Scope(module, function)) or []:
                        found.append(Message(kind="reason", text=text, module=module.name))
        return _distinct(found)

    def _messages(self, kinds: Mapping[str, str]) -> list[Message]:
        found = []
        for name, kind in kinds.items():
            for module, call in self.calls[name]:
                # what is printed is the result of a command, unless it goes elsewhere
                if not call.args or (name == "print" and not call.keywords) or (name in ENDS and call.keywords):
                    continue
                for scope in self._scopes(module, call):
                    texts = self.texts(call.args[0], scope) or []
                    # a private class is caught by the code that raises it
                    within = name.startswith("_") and name not in ENDS
                    found += [
                        Message(kind=kind, text=" ".join(text.split()), module=module.name, within=within)
                        for text in texts
                    ]
        return _distinct(found)

    def _scopes(self, module: Module, call: ast.Call) -> list[Scope]:
        """The scopes of a call: one, or one for each record of the table that a loop around it goes through."""
        scope = Scope(module, module.function_of(call))
        node: ast.AST = call
        while node in module.around:
            node = module.around[node]
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Name):
                table = module.constants.get(node.iter.id)
                records = [one for one in ast.walk(table) if isinstance(one, ast.Call)] if table else []
                rows = [
                    {f"{node.target.id}.{word.arg}": self.texts(word.value, scope) for word in record.keywords}
                    for record in records
                ]
                if any(rows):
                    return [Scope(module, scope.function, row) for row in rows if row]
        return [scope]

    def texts(self, node: ast.expr, scope: Scope) -> list[str] | None:
        """The texts that an expression may have, or None where only a run can know."""
        if scope.depth > 6:
            return None
        match node:
            case ast.Constant(value=None):
                return []
            case ast.Constant(value=value):
                return [str(value)]
            case ast.JoinedStr(values=parts):
                return self._joined(parts, scope)
            case ast.FormattedValue(value=value, conversion=conversion):
                texts = self._few(value, scope)
                quoted = conversion == ord("r") and label(value) not in ANYTHING
                return [f"'{text}'" for text in texts] if quoted else texts
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._joined([left, right], scope)
            case ast.IfExp(body=body, orelse=other):
                return self._any([body, other], scope)
            case ast.BoolOp(op=ast.Or(), values=[*before, last]):
                known = self._any(before, scope), self.texts(last, scope)
                return None if None in known else [*filter(None, known[0] or []), *(known[1] or [])]
            case ast.Name(id=name):
                return self._of_name(name, scope)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return scope.known.get(f"{name}.{attribute}")
            case ast.List(elts=values):
                return self._any(values, scope)
            case ast.ListComp(elt=one) | ast.GeneratorExp(elt=one):
                return self.texts(one, scope)
            case ast.Call():
                return self._of_call(node, scope)
        return None

    def _few(self, value: ast.expr, scope: Scope) -> list[str]:
        """The texts of a part of a sentence: a word for it where they are unknown or many; whole sentences all stay."""
        texts = list(dict.fromkeys(self.texts(value, scope) or []))
        sentences = bool(texts) and min(text.count(" ") for text in texts) >= SENTENCE
        return texts if 0 < len(texts) <= MOST_ALTERNATIVES or sentences else [_unknown(value)]

    def _joined(self, parts: Iterable[ast.expr], scope: Scope) -> list[str] | None:
        each = {ast.unparse(part): self.texts(part, scope) for part in parts}
        if any(texts is None for texts in each.values()):
            return None
        # a value that stands twice in a sentence is one value
        chosen = itertools.product(*[texts or [""] for texts in each.values()])
        order = [list(each).index(ast.unparse(part)) for part in parts]
        return ["".join(choice[place] for place in order) for choice in chosen]

    def _any(self, nodes: Iterable[ast.expr], scope: Scope) -> list[str] | None:
        each = [self.texts(node, scope) for node in nodes]
        return None if any(texts is None for texts in each) else list(itertools.chain(*[t or [] for t in each]))

    def _of_name(self, name: str, scope: Scope) -> list[str] | None:
        if name in scope.known:
            return scope.known[name]
        function = scope.function
        if function is None:
            constant = self._constant(name, scope.module)
            return None if constant is None else self.texts(constant, scope.deeper())
        arguments = scope.module.arguments_of(function)
        values = [value for found, value in _assigned(ast.walk(function)) if found == name]
        if values:
            changed = any(
                isinstance(node, ast.AugAssign) and label(node.target) == label(ast.Name(id=name))
                for node in ast.walk(function)
            )
            return None if changed or name in arguments else self._any(values, scope.deeper())
        if name in arguments:
            return self._of_argument(name, arguments, function, scope)
        for node in ast.walk(function):
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name) and node.target.id == name:
                if isinstance(node.iter, ast.Call) and _called(node.iter) == "chain":
                    return self._any(node.iter.args, scope.deeper())
                return self._any(getattr(node.iter, "elts", [node.iter]), scope.deeper())
        return self._of_name(name, scope.deeper(function=None, known={}))

    def _constant(self, name: str, module: Module) -> ast.expr | None:
        homes = [module, *(self.modules if name in module.imports else [])]
        return next((home.constants[name] for home in homes if name in home.constants), None)

    def _of_argument(
        self, name: str, arguments: list[str], function: ast.FunctionDef, scope: Scope
    ) -> list[str] | None:
        """What the callers of a function give it: in its own module, or everywhere if they all give the same."""
        if (function.name, name) in scope.following:
            return []
        given: list[str] = []
        following = scope.following | {(function.name, name)}
        callers = [
            (module, call) for module, call in self.calls[function.name] if _means(call, function, scope, module)
        ]
        if not callers:
            return None
        for module, call in callers:
            bound = _bound(call, arguments)
            there = Scope(module, module.function_of(call), depth=scope.depth + 1, following=following)
            texts = self.texts(bound[name], there) if name in bound else None
            if texts is None:
                return None
            given += texts
        within = all(module is scope.module for module, _ in callers)
        return given if within or len(set(given)) <= 1 else None

    def _of_call(self, call: ast.Call, scope: Scope) -> list[str] | None:
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(between)), attr="join"), args=[items]):
                return self._of_list(between, items, scope)
        name = _called(call)
        found = self.functions.get(name or "", [])
        here = [(module, function) for module, function in found if module is scope.module]
        if len(here or found) != 1:
            return None
        module, function = (here or found)[0]
        if function.returns is None or not re.search(r"\bstr\b", ast.unparse(function.returns)):
            return None
        arguments = module.arguments_of(function)
        known: dict[str, list[str] | None] = {}
        for argument, value in _bound(call, arguments).items():
            known[argument] = self._few(value, scope)
        inside = scope.deeper(module=module, function=function, known=known)
        results: list[str] = []
        for node in ast.walk(function):
            if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value is not None:
                texts = self.texts(node.value, inside)
                if texts is None:
                    return None
                results += texts
        return results

    def _of_list(self, between: str, items: ast.expr, scope: Scope) -> list[str] | None:
        """A constant tuple or the names of a constant table, as they are joined for a sentence."""
        quote = "repr(" in ast.unparse(items) or "repr," in ast.unparse(items) or "!r}" in ast.unparse(items)
        match items:
            case ast.Call(func=ast.Name(id="map"), args=[_, ast.Name(id=name)]):
                pass
            case ast.GeneratorExp(generators=[ast.comprehension(iter=ast.Name(id=name), ifs=[])]):
                pass
            case ast.Name(id=name):
                pass
            case _:
                return None
        constant = self._constant(name, scope.module)
        members = list(getattr(constant, "keys", None) or getattr(constant, "elts", []))
        texts = [self.texts(one, Scope(scope.module, depth=scope.depth + 1)) for one in members]
        if not texts or not all(one and len(one) == 1 for one in texts):
            return None
        words = [one[0] for one in texts if one]
        return [between.join(repr(word) if quote else word for word in words)]


def _distinct(messages: Iterable[Message]) -> list[Message]:
    """Each once, without those whose words only a run knows."""
    known = re.compile(f"^[\\w-]+: |{OPEN}[^{CLOSE}]*{CLOSE}")
    sentences = (one for one in messages if " " in one.text and re.search("[a-z]{2}", known.sub("", one.text)))
    return list(dict.fromkeys(sentences))


def _means(call: ast.Call, function: ast.FunctionDef, home: Scope, module: Module) -> bool:
    """Whether a call in `module` is one of `function`, which stands in the module of `home`."""
    if isinstance(home.module.around[function], ast.ClassDef):
        return module is home.module
    if isinstance(call.func, ast.Attribute):
        return isinstance(call.func.value, ast.Name) and call.func.value.id == home.module.path.stem
    return module is home.module or function.name in module.imports


def _called(call: ast.Call) -> str | None:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _bound(call: ast.Call, arguments: list[str]) -> dict[str, ast.expr]:
    """The expressions of a call by the names of the arguments."""
    return dict(zip(arguments, call.args, strict=False)) | {word.arg: word.value for word in call.keywords if word.arg}


# names in the code that say less to a reader than these words
_WORDS = {
    "__name__": "type",
    "at": "place",
    "by_leaf": "setting",
    "close": "nearest",
    "dotted": "setting",
    "error": "reason",
    "input": "value",
    "item": "value",
    "mapping": "value",
    "prefix": "setting",
    "problem": "reason",
    "strerror": "reason",
    "types": "type",
    "wanted": "name",
    "where": "setting",
}


def _unknown(node: ast.expr) -> str:
    return f"{OPEN}{label(node)}{CLOSE}"


def label(node: ast.expr) -> str:
    """A word for a value that only a run knows."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _WORDS.get(name, name.strip("_").replace("_", " "))
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return label(ast.Name(id=key))
        case ast.Subscript(value=value) | ast.Starred(value=value):
            return label(value)
        case ast.Call(func=ast.Name(id="len"), args=[of]):
            return f"number of {label(of)}"
        case ast.Call(func=ast.Name(id="getattr")):
            return "value"
        case ast.Call(func=ast.Attribute(attr="get"), args=[key]):
            return f"value of {label(key)}"
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[items]):
            return label(items)
        case ast.Call(func=ast.Attribute(value=of, attr="min" | "max" | "sum" | "stride" | "decode" | "strip")):
            return label(of)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            return label(ast.Name(id=name))
        case ast.Call(func=ast.Name(id="_nearest_multiple")):
            return "multiple"
        case ast.Call(args=[*_, last]):
            return label(last)
        case ast.GeneratorExp(generators=[first, *_]) | ast.ListComp(generators=[first, *_]):
            return label(first.iter)
        case ast.BoolOp(values=[first, *_]) | ast.IfExp(body=first) | ast.BinOp(left=first):
            return label(first)
    return "value"
