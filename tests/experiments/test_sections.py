"""Which records may stand in one table."""

from experiments.sections import sections


def row(name: str, *, seed=0, protocol="p", **settings) -> dict:
    """Return a record that fills a cell of its own."""
    return {
        "run": name, "config_digest": name, "corpus": "c", "protocol": protocol, "recordings": "r",
        "label_digest": "l", "seed": seed, "settings": settings, "method": "supervised", "frozen": False,
        "title": name, "views": (), "fraction": 1.0, "fold": 1, "repeat": 0, "temperature": None,
        "pretrained_on": None, "features": {}, "classes": ("a", "b"),
    }  # fmt: skip


def names(found) -> list[set[str]]:
    return [{row["run"] for row in section.rows} for section in found]


def test_a_row_stands_in_every_section_whose_settings_agree_with_its_own():
    networks = {"normalise": "fold", "finetuning": {"epochs": 9}}
    rows = [
        row("raw", normalise="fold"),
        row("supervised", **networks),
        row("tuned", **networks, pretraining={"epochs": 5, "temperature": 1}),
        row("longer", **networks, pretraining={"epochs": 7, "temperature": 1}),
        row("cold", **networks, pretraining={"epochs": 7, "temperature": 0.1}),
    ]
    assert names(sections(rows)) == [
        {"raw", "supervised", "tuned"},
        {"raw", "supervised", "longer", "cold"},
    ]


def test_rows_of_other_data_seeds_and_settings_have_other_sections():
    rows = [
        row("a", normalise="fold"),
        row("b", normalise="speaker"),
        row("c", seed=1, normalise="fold"),
        row("d", protocol="q", normalise="fold"),
    ]
    assert sorted(map(sorted, names(sections(rows)))) == [["a"], ["b"], ["c"], ["d"]]


def test_rows_of_other_features_of_a_view_have_other_sections():
    rows = [row("a") | {"features": {"mel": "64 bands"}}, row("b") | {"features": {"mel": "80 bands"}}]
    rows.append(row("c") | {"features": {"egemaps": "v02"}})
    assert names(sections(rows)) == [{"a", "c"}, {"b", "c"}]


def test_a_record_that_was_appended_twice_is_one_run():
    (section,) = sections([row("a"), row("a")])
    assert names([section]) == [{"a"}]
    assert not section.conflicts
