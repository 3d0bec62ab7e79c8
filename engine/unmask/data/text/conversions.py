"""What makes text of a file that is not read: a command for each suffix."""

from __future__ import annotations

import os
from pathlib import PurePath

from unmask.data.text.readers import FORMATS
from unmask.paths import as_typed

__all__ = ["READ", "conversion"]

READ = f"{', '.join(FORMATS)}, each also .gz and .zst"
"""The suffixes that are read, for messages."""

_PANDAS = 'python -c "import pandas; pandas.read_excel({file!r}).to_csv({csv!r}, index=False)" (pandas and openpyxl)'
_ARROW = (
    'python -c "import pyarrow.feather as f, pyarrow.parquet as p; p.write_table(f.read_table({file!r}), {parquet!r})"'
)
_XML = (
    'python -c "import xml.etree.ElementTree as e; print(*e.parse({file!r}).getroot().itertext(), sep=chr(10))" '
    "> {txt_typed}"
)
_PANDOC = "pandoc -t plain -o {txt_typed} {typed}"
_COLUMNS = "if it has CoNLL columns, give its name the suffix .conll: cp {typed} {conll_typed}"
_COMMANDS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), _PANDAS),
    **dict.fromkeys((".arrow", ".feather"), _ARROW),
    ".xml": _XML,
    ".bz2": "bunzip2 -k {typed}",
    ".xz": "unxz -k {typed}",
    ".lz4": "lz4 -d {typed} {stem_typed}",
    ".7z": "7z x {typed}",
    ".zip": "python -m zipfile -e {typed} {stem_typed}",
    **dict.fromkeys((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz"), "python -m tarfile -e {typed} {stem_typed}"),
    ".pdf": "pdftotext {typed} {txt_typed}",
    **dict.fromkeys((".html", ".htm", ".docx", ".odt", ".rtf", ".epub", ".tex"), _PANDOC),
    **dict.fromkeys((".bmes", ".bio", ".iob", ".iob2", ".ner", ".conllx"), _COLUMNS),
    **dict.fromkeys(
        (".gz", ".zst"), "give its name both suffixes, as in .txt.gz or .jsonl.zst: mv {typed} {both_typed}"
    ),
}
_PLAIN = "if it is plain text, give its name the suffix .txt: cp {typed} {plain_typed}"


def conversion(file: str | os.PathLike[str]) -> str:
    """Return the way to make text of a file whose suffix is not read, with a command to copy."""
    name = os.fspath(file)
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    suffix = next((one for one in ("".join(suffixes[-2:]), *suffixes[-1:]) if one in _COMMANDS), "")
    stem = name[: -len(suffix)] if suffix else name
    return _COMMANDS.get(suffix, _PLAIN).format(
        file=name,
        typed=as_typed(name),
        plain_typed=as_typed(f"{name}.txt"),
        stem_typed=as_typed(stem),
        txt_typed=as_typed(f"{stem}.txt"),
        conll_typed=as_typed(f"{stem}.conll"),
        both_typed=as_typed(f"{stem}.txt{suffix}"),
        csv=f"{stem}.csv",
        parquet=f"{stem}.parquet",
    )
