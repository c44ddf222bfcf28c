"""The report's page in a browser: no complaint on the console, and no scrolling sideways on a phone."""

import re

import pytest

from tests.browser import find_browser, look
from tests.experiments.test_report import METHODS, made, written

PROBE = "<script>console.log(`${innerWidth} wide, page ${document.documentElement.scrollWidth}`)</script>"


def records_of(kind: str) -> list:
    """Return no records, those of a begun sweep, or all that the tables of a corpus read."""
    if kind == "empty":
        return []
    if kind == "partial":
        return made(folds=(1,), repeats=range(2), methods=METHODS[:2])
    more = [
        made(methods=METHODS[1:2], pretrained_on=subset) for subset in ("target", "out_of_distribution")
    ] + [
        made(methods=METHODS[1:3], temperature=tau, fractions=(1.0,), repeats=(0,)) for tau in (0.1, 0.5, 1.0)
    ]
    return sum(more, made() + made(corpus="iemocap", fractions=(0.02, 0.05, 1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "partial", "full"])
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_the_page_without_complaint(tmp_path, kind, width):
    browser = find_browser()
    page = written(tmp_path, records_of(kind)).path
    page.write_text(page.read_text() + PROBE)
    console, picture = look(browser, page.as_uri(), page.with_suffix(".png"), width)
    assert len(console) == 1, console  # ours
    assert re.fullmatch(rf"{width} wide, page \d+", console[0]), console
    assert int(console[0].split()[-1]) <= width
    assert picture.startswith(b"\x89PNG")
