"""The parts of an HTML page that stands alone: no script, and nothing that the browser has to fetch.

Each function escapes what it is given, so no name, setting or text can become markup. A policy in the head of the page
forbids every request.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["cards", "facts_list", "page", "section", "table_of"]

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f5f6f8; --text: #1d2330; --soft: #5b6475; --rule: #dde1e8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #b3589a; --c4: #a87900; --c5: #3f8fc4;
  --good: #00734f; --bad: #a83f00; }
@media (prefers-color-scheme: dark) { :root { --back: #14171d; --card: #1d222b; --text: #e6e9ef; --soft: #a3adbd;
  --rule: #343b48; --c0: #56b4e9; --c1: #f0894c; --c2: #3ecb9b; --c3: #dd99c6; --c4: #e6b84a; --c5: #8fd0f5;
  --good: #4fd1a5; --bad: #f2a06e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 20px 16px 48px; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 36px 0 10px; }
p { margin: 6px 0; } .soft, figcaption, dt, th, summary { color: var(--soft); }
.cards, .charts { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.card, figure { background: var(--card); border-radius: 8px; padding: 10px 12px; margin: 0; min-width: 0; }
.card b { display: block; font-size: 1.25rem; font-weight: 600; }
figcaption { font-size: 0.9rem; } svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.line.dashed { stroke-dasharray: 5 4; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .dot { fill: var(--card); }
.keys { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 0.85rem; }
.key i { display: inline-block; width: 18px; border-top: 3px solid; margin-right: 6px; vertical-align: middle; }
i.dashed { border-top-style: dashed; }
i.c0 { color: var(--c0); } i.c1 { color: var(--c1); } i.c2 { color: var(--c2); } i.c3 { color: var(--c3); }
i.c4 { color: var(--c4); } i.c5 { color: var(--c5); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; width: 100%; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 4px 16px; margin: 0; }
dd { margin: 0; min-width: 0; } summary { cursor: pointer; padding: 8px 0; } code { font-size: 0.9em; }
.sample { background: var(--card); border-radius: 8px; padding: 10px 12px; margin: 8px 0; }
.right, .wrong { border-radius: 4px; padding: 0 3px; font-weight: 600; }
.right { color: var(--good); border: 1px solid var(--good); }
.wrong { color: var(--bad); border: 1px solid var(--bad); }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """Return a whole page from its sections, which are markup."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="soft">{escape(subtitle)}</p>
{"".join(sections)}
</body>
</html>
"""


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a section of markup under a title; an empty string if all parts are empty and there is no note."""
    if not any(parts) and not note:
        return ""
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{''.join(parts)}</section>"


def cards(numbers: Mapping[str, str]) -> str:
    """Return a card for each number, with its name below."""
    made = (f'<div class="card"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in numbers.items())
    return f'<div class="cards">{"".join(made)}</div>'


def facts_list(values: Mapping[str, str]) -> str:
    """Return a list of names and values; an empty string if there are none."""
    made = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items())
    return f"<dl>{''.join(made)}</dl>" if values else ""


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table whose last `numbers` columns are set as numbers; an empty string without rows."""
    if not rows:
        return ""
    first = len(header) - numbers

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = ("" if column < first else ' class="number"' for column in range(len(row)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", header)}</tr>{body}</table></div>'
