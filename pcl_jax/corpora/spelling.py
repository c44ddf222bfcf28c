"""Spelling of names: one form for one name, and names that are probably meant to be one."""

import re
from collections import defaultdict
from collections.abc import Iterable
from unicodedata import category, normalize


def tidy(text: str) -> str:
    r"""Return a name in Unicode's composed form (NFC), with single spaces between its words.

    Example:
        >>> tidy("  Zoe\u0308  B ") == "Zo\u00eb B"
        True
    """
    return normalize("NFC", " ".join(text.split()))


def key(name: str) -> str:
    """Return what a name is apart from case, leading zeros of numbers and invisible characters.

    A whole number is the same with a decimal point, which spreadsheets and pandas add.

    Example:
        >>> key("Spk007") == key("spk7"), key("spk70") == key("spk7"), key("7.0") == key("07")
        (True, False, True)
    """
    if not name.isascii():
        name = "".join(c for c in normalize("NFKC", name) if category(c) != "Cf")
    name = re.sub(r"^(\d+)\.0+$", r"\1", tidy(name))
    return re.sub(r"(?<!\d)0+(?=\d)", "", normalize("NFC", name.casefold()))


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group different names that have the same `key`."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[key(name)].add(name)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]
