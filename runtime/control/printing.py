"""How commands print: lines as they are, and tables without frames."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def say(console: Console, line: str) -> None:
    """Print a line in which nothing is markup."""
    console.print(line, highlight=False, markup=False, emoji=False)


def show_table(
    console: Console, left: Sequence[str], right: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print rows under their columns; words stand left, numbers right of them."""
    table = Table(box=None, pad_edge=False)
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False, emoji=False)
