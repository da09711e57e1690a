"""The text the demo model learns from: the documentation strings of the standard library.

Nothing is downloaded and nothing is imported but what the interpreter has anyway: sources are read
with `ast`, the modules written in C are asked for their `__doc__`, and `pydoc_data` holds the
language reference as plain text. What stays is sentences; code, tables and signatures go.

The same interpreter version always gives the same entries in the same order.
"""

import ast
import importlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, ExtensionFileLoader
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics
from types import ModuleType
from typing import Literal

Kind = Literal["module", "class", "function", "topic"]

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}
    | {"pydoc_data", "_bundled", "__pycache__"}
)
MIN_WORDS = 4
MIN_LETTERS = 0.82  # letters and spaces as a share of a paragraph; below it is code or a table

_TO_ASCII = str.maketrans(
    {
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{HORIZONTAL ELLIPSIS}": "...",
    }
)
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]+?)(?:\(\))?`")
_SIGNATURE = re.compile(r"^[\w.]+\(.*?\)(?: *-+> *[\w\[\], .]+)?(?:\s*--|\s*$|:?\s+(?=[A-Z]))")
_UNDERLINE = re.compile(r"^\s*([=\-*~^#])\1{2,}\s*$")
_CODE = re.compile(r">>>|\.\.\. |::=|^\s*\||\w\(.*\) *(?:->|=)|[{}\\]|    \S|__\w+__ *=")
_FOOTNOTE = re.compile(r"\s*\[\d+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One documented thing: its name, what sort of thing it is, and its cleaned paragraphs."""

    name: str
    kind: Kind
    home: str
    paragraphs: tuple[str, ...]


def stdlib_entries() -> list[Entry]:
    """Every documented module, class, function and language topic, without repeated texts."""
    seen: set[tuple[str, ...]] = set()
    entries = []
    for entry in _all_entries():
        if entry.paragraphs and entry.paragraphs not in seen:
            seen.add(entry.paragraphs)
            entries.append(entry)
    return entries


def clean(text: str) -> tuple[str, ...]:
    r"""The paragraphs of a documentation string that are sentences, each on one line.

    Example:
        >>> clean("Return *x*.\n\n    >>> f(1)\n    2\n\nThe value is\nnever ``None`` here.")
        ('The value is never None here.',)
    """
    text = inspect.cleandoc(text).translate(_TO_ASCII).encode("ascii", "ignore").decode()
    paragraphs = (_one_line(block) for block in re.split(r"\n\s*\n", text))
    return tuple(paragraph for paragraph in paragraphs if _is_prose(paragraph))


def _all_entries() -> Iterator[Entry]:
    yield from _topic_entries()
    yield from _native_entries()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not SKIPPED_FOLDERS.intersection(inside.parts):
            yield from _source_entries(path, ".".join(inside.with_suffix("").parts))


def _topic_entries() -> Iterator[Entry]:
    for text in topics.topics.values():
        title = text.strip().splitlines()[0].replace('"', "").partition(" \N{EM DASH} ")[0]
        title = title.strip()
        yield Entry(name=title, kind="topic", home=title, paragraphs=clean(text))


def _native_entries() -> Iterator[Entry]:
    for name in sorted(sys.stdlib_module_names):
        module = _native_module(name)
        if module is None:
            continue
        home = name.lstrip("_")
        yield Entry(name=home, kind="module", home=home, paragraphs=_doc(module))
        yield from _member_entries(module, home)


def _native_module(name: str) -> ModuleType | None:
    spec = None if name.startswith(("_test", "_xx", "xx")) else find_spec(name)
    if spec is None or not isinstance(spec.loader, ExtensionFileLoader | type(BuiltinImporter)):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:  # built against a library that this machine has not got
        return None


def _member_entries(module: ModuleType, home: str) -> Iterator[Entry]:
    for name, member in sorted(vars(module).items()):
        if isinstance(member, type):
            yield Entry(name=name, kind="class", home=home, paragraphs=_doc(member))
            for method, value in sorted(vars(member).items()):
                full = f"{name}.{method}"
                yield Entry(name=full, kind="function", home=home, paragraphs=_doc(value))
        elif inspect.isbuiltin(member):
            yield Entry(name=name, kind="function", home=home, paragraphs=_doc(member))


def _source_entries(path: Path, module: str) -> Iterator[Entry]:
    name = module.removesuffix(".__init__").lstrip("_")
    tree = ast.parse(path.read_bytes())
    yield Entry(
        name=name, kind="module", home=name, paragraphs=clean(ast.get_docstring(tree) or "")
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind: Kind = "class" if isinstance(node, ast.ClassDef) else "function"
            paragraphs = clean(ast.get_docstring(node) or "")
            yield Entry(name=node.name, kind=kind, home=name, paragraphs=paragraphs)


def _doc(value: object) -> tuple[str, ...]:
    doc = getattr(value, "__doc__", None)
    return clean(doc) if isinstance(doc, str) else ()


def _one_line(block: str) -> str:
    lines = [line for line in block.splitlines() if not _UNDERLINE.match(line)]
    if any(_CODE.search(line) for line in lines):
        return ""
    text = _ROLE.sub(r"\1", " ".join(line.strip() for line in lines))
    text = _SIGNATURE.sub("", _FOOTNOTE.sub("", text)).replace("::", ":")
    return re.sub(r"\s+", " ", re.sub(r"``?|\*\*?|^[-o*] ", "", text)).strip()


def _is_prose(text: str) -> bool:
    letters = sum(char.isalpha() or char == " " for char in text)
    return (
        len(text.split()) >= MIN_WORDS
        and text[-1] in ".:!?"
        and letters / len(text) >= MIN_LETTERS
        and text[0].isalpha()
    )
