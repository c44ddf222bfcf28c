"""A table of text, and how it looks in Markdown, LaTeX and HTML."""

from typing import NamedTuple

from tabulate import tabulate

NOT_RUN = "not run"
"""Text of a cell whose runs are missing."""


class Table(NamedTuple):
    """Table whose cells are text already: how a number is rounded is part of what it says.

    >>> print(Table("Results", ("view", "UAR"), [("mel", "59.1 ± 2.5")]).markdown())
    | view   | UAR        |
    |--------|------------|
    | mel    | 59.1 ± 2.5 |
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    """Text beneath the table: how to read it."""

    def markdown(self) -> str:
        """Return the table in Markdown; a text of the user ends no cell and is no HTML."""
        rows = [tuple(map(markdown_text, row)) for row in self.rows]
        head = tuple(map(markdown_text, self.head))
        return str(tabulate(rows, head, tablefmt="github", disable_numparse=True))

    def latex(self) -> str:
        """Return a `tabular` that needs the package booktabs."""
        text = str(tabulate(self.rows, self.head, tablefmt="latex_booktabs", disable_numparse=True))
        for sign, code in (("±", r"$\pm$"), ("τ", r"$\tau$"), ("δ", r"$\delta$")):
            text = text.replace(sign, code)
        return text

    def html(self) -> str:
        """Return the table in HTML, escaped: a title of a view may hold anything."""
        return str(tabulate(self.rows, self.head, tablefmt="html", disable_numparse=True))

    @property
    def missing(self) -> bool:
        """Whether a cell has not been run."""
        return any(NOT_RUN in row for row in self.rows)


def markdown_text(text: str) -> str:
    r"""Return a text that stands in Markdown, in a cell too, as it is.

    >>> print(markdown_text("a|b <b>"))
    a\|b \<b>
    """
    for sign in ("\\", "|", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.splitlines()) if "\n" in text else text
