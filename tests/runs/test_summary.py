"""Which records may stand in one table."""

from pcl_jax.runs.summary import sections


def row(name: str, *, seed=0, protocol="p", **settings) -> dict:
    return {"run": name, "corpus": "c", "protocol": protocol, "seed": seed, "settings": settings}


def names(found) -> list[set[str]]:
    return [{row["run"] for row in section} for section in found]


def test_a_row_stands_in_every_section_whose_settings_agree_with_its_own():
    rows = [
        row("raw", normalise="fold"),
        row("supervised", normalise="fold", finetuning={"epochs": 9}),
        row("tuned", normalise="fold", finetuning={"epochs": 9}, pretraining={"epochs": 5, "temperature": 1}),
        row(
            "longer", normalise="fold", finetuning={"epochs": 9}, pretraining={"epochs": 7, "temperature": 1}
        ),
        row(
            "cold", normalise="fold", finetuning={"epochs": 9}, pretraining={"epochs": 7, "temperature": 0.1}
        ),
    ]
    assert names(sections(rows)) == [
        {"raw", "supervised", "tuned"},
        {"raw", "supervised", "longer", "cold"},
    ]


def test_other_data_seeds_and_settings_are_apart():
    rows = [
        row("a", normalise="fold"),
        row("b", normalise="speaker"),
        row("c", seed=1, normalise="fold"),
        row("d", protocol="q", normalise="fold"),
    ]
    assert sorted(map(sorted, names(sections(rows)))) == [["a"], ["b"], ["c"], ["d"]]
