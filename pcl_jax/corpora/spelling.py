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

    Example:
        >>> key("Spk007") == key("spk7"), key("spk70") == key("spk7")
        (True, False)
    """
    if not name.isascii():
        name = "".join(c for c in normalize("NFKC", name) if category(c) != "Cf")
    return re.sub(r"(?<!\d)0+(?=\d)", "", normalize("NFC", tidy(name).casefold()))


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group different names that have the same `key`."""
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[key(name)].add(name)
    return [tuple(sorted(group)) for group in groups.values() if len(group) > 1]
