"""A table of text, and how it looks in Markdown, LaTeX and HTML."""

from typing import NamedTuple

from tabulate import tabulate

NOT_RUN = "not run"
"""What stands in a cell whose runs are not there."""


class Table(NamedTuple):
    """Cells are text already: how a number is rounded is part of what it says.

    >>> print(Table("Results", ("view", "UAR"), [("mel", "59.1 ± 2.5")]).markdown())
    | view   | UAR        |
    |--------|------------|
    | mel    | 59.1 ± 2.5 |
    """

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    """How to read it."""

    def markdown(self) -> str:
        return self._as("github")

    def latex(self) -> str:
        """A `tabular` that needs the package booktabs."""
        text = self._as("latex_booktabs")
        for sign, code in (("±", r"$\pm$"), ("τ", r"$\tau$"), ("δ", r"$\delta$")):
            text = text.replace(sign, code)
        return text

    def html(self) -> str:
        """Escaped: a title of a view may hold anything."""
        return str(tabulate(self.rows, self.head, tablefmt="html", disable_numparse=True))

    @property
    def missing(self) -> bool:
        """Whether a cell has not been run."""
        return any(NOT_RUN in row for row in self.rows)

    def _as(self, form: str) -> str:
        return tabulate(self.rows, self.head, tablefmt=form, disable_numparse=True)
