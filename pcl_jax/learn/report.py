"""Report of `pcl learn`: JSON for scripts, Markdown, one self-contained HTML page, the model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from tabulate import tabulate

from pcl_jax.learn.evaluation import Data, Estimate, Evaluation

TABLE_NOTE = "UAR is the mean recall over the classes; intervals are 95 %, by bootstrap over speakers."
CARD_LIMITS = (
    "A label is an annotator's impression of a voice. It is not the emotion of the speaker.",
    "EU AI Act, Art. 5(1)(f): not for inferring emotions at work or in education, except for medical or "
    "safety reasons.",
    "Licences: openSMILE, which the eGeMAPS view needs, is free for research only, and its licence covers "
    "models trained on its features. The licence of the corpus applies to this model too.",
)


def summarise(
    data: Data,
    evaluation: Evaluation,
    choice: Mapping[str, Any],
    limits: Sequence[str],
    used: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all numbers as JSON types.

    Args:
        data: What was learned from.
        evaluation: Its cross-validation.
        choice: What the recipe chose, and why.
        limits: What cannot be claimed.
        used: Further facts: corpus, speech model, views, clips that were left out.
    """
    recall = dict(zip(data.classes, evaluation.recall, strict=True))
    return {
        **evaluation.recipe._asdict(),
        "n_labelled": int(data.labelled.sum()),
        "n_unlabelled": int((~data.labelled).sum()),
        "n_speakers": len(set(data.speakers)),
        "classes": list(data.classes),
        "chosen": dict(choice),
        "baseline": evaluation.baseline._asdict(),
        "chance": 1 / len(data.classes),
        "curve": [{"n_labelled": p.n_labelled, **p.estimate._asdict()} for p in evaluation.curve],
        "gain_of_twice_the_labels": evaluation.gain and list(evaluation.gain),
        "verdict": verdict(evaluation, int(data.labelled.sum())),
        "recall": recall,
        "confusion": evaluation.confusion.tolist(),
        "calibration": {
            "error": evaluation.calibration_error,
            "brier": evaluation.brier,
            "temperature": evaluation.temperature,
        },
        "folds": evaluation.folds,
        "cannot_be_claimed": list(limits),
        **used,
    }


def verdict(evaluation: Evaluation, labels: int) -> str:
    """Say in one sentence what further labels would bring, from the label curve."""
    if evaluation.gain is None:
        return f"What more labels would bring cannot be said from {labels} labels."
    low, high = (100 * value for value in evaluation.gain)
    bounds = f"{low:+.0f} to {high:+.0f} points of UAR, from your own label curve"
    if low > 0:
        return f"With {labels} more labels expect {bounds}."
    return f"Whether {labels} more labels would help cannot be said: {bounds}."


def percent(estimate: Estimate | Mapping[str, Any]) -> str:
    """Return an estimate as text.

    >>> percent(Estimate(0.5, 0.4, 0.6)), percent(Estimate(None, None, None))
    ('50.0 (40.0 to 60.0)', 'cannot be said')
    """
    uar, low, high = (estimate[k] for k in Estimate._fields) if isinstance(estimate, Mapping) else estimate
    if uar is None or low is None or high is None:
        return "cannot be said"
    return f"{100 * uar:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def tables(report: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables of the report: title, headings, rows."""
    classes = report["classes"]
    comparison = [
        ["recipe (this model)", percent(report)],
        ["best simple probe", percent(report["baseline"])],
        ["chance", f"{100 * report['chance']:.1f}"],
    ]
    recalls = [
        [name, "cannot be tested" if value is None else f"{100 * value:.1f}", *map(str, row)]
        for (name, value), row in zip(report["recall"].items(), report["confusion"], strict=True)
    ]
    found = [
        ("UAR in %, new speakers", ["method", "UAR (95 %)"], comparison),
        ("Recall in % and confusion", ["true class", "recall", *(f"as {name}" for name in classes)], recalls),
    ]
    if report["curve"]:
        points = [[str(p["n_labelled"]), percent(p)] for p in report["curve"]]
        found.append(("Label curve", ["labels in training", "UAR (95 %)"], points))
    return found


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Return the text of the report, a paragraph each."""
    calibration = report["calibration"]
    lines = [
        f"{report['n_labelled']} labelled and {report['n_unlabelled']} unlabelled clips of "
        f"{report['n_speakers']} speakers, {report['folds']} folds; the speakers of a fold are not heard in "
        "its training.",
        report["verdict"],
    ]
    if report["uar"] is not None:
        lines.append(
            f"Calibration: error {calibration['error']:.3f}, Brier score {calibration['brier']:.3f} "
            f"(temperature {calibration['temperature']:.2f}, fitted on cross-validated predictions)."
        )
    return [*lines, *report.get("remarks", [])]


def markdown(report: Mapping[str, Any], title: str = "# Report of pcl learn") -> str:
    """Return the report as Markdown."""
    parts = [title, *sentences(report)]
    for name, headings, rows in tables(report):
        parts += [f"## {name}", tabulate(rows, headings, tablefmt="github", disable_numparse=True)]
    parts += [TABLE_NOTE, "## What cannot be claimed"]
    parts.append("\n".join(f"- {line}" for line in report["cannot_be_claimed"]))
    parts += ["## Chosen, and why", f"```json\n{_json(report['chosen'])}\n```"]
    return "\n\n".join(parts) + "\n"


def card(report: Mapping[str, Any], name: str) -> str:
    """Return the model card: Hugging Face's YAML header, protocol, numbers, intended use, limits."""
    header = "\n".join(
        [
            "---",
            "library_name: pcl_jax",
            "pipeline_tag: audio-classification",
            "tags:\n- speech-emotion-recognition\n- few-labels\n- jax",
            "license: other",
            "---",
        ]
    )
    use = (
        f"```python\nimport pcl_jax\n\nmodel = pcl_jax.load_model({name!r})\n"
        "model.predict(waveform, sampling_rate)  # {class: probability}\n```\n\n"
        f"From a shell: `pcl predict {name} recordings/ --out predictions.csv`. Classes: "
        f"{', '.join(report['classes'])}."
    )
    limits = "\n".join(f"- {line}" for line in CARD_LIMITS)
    body = (
        markdown(report, "## Evaluation")
        .replace("\n## ", "\n### ")
        .replace("### Evaluation", "## Evaluation")
    )
    intended = (
        "Research on speech, and sorting recordings of one's own for a human who listens. The front end "
        "(decoding and views) is the code of pcl_jax and not in the files."
    )
    return (
        "\n\n".join(
            [header, f"# {name}", use, "## Intended use", intended, "## Limits", limits, body.rstrip()]
        )
        + "\n"
    )


def page(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page without external requests; all text is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("page.html.jinja").render(
        report=report,
        tables=tables(report),
        sentences=sentences(report),
        note=TABLE_NOTE,
        chosen=_json(report["chosen"]),
        curve=_curve(report["curve"]),
    )


def _curve(
    points: Sequence[Mapping[str, Any]], width: int = 480, height: int = 240
) -> list[dict[str, float]]:
    """Return the points of the label curve in pixels of its figure, 100 % at the top."""
    if not points or points[0]["uar"] is None:
        return []
    most = max(p["n_labelled"] for p in points)
    return [
        {
            "x": round(50 + (width - 70) * p["n_labelled"] / most, 1),
            "n": p["n_labelled"],
            **{name: round(10 + (height - 40) * (1 - p[name]), 1) for name in ("uar", "low", "high")},
        }
        for p in points
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)
