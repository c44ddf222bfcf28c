"""Other tools on the work of `experiments.few_labels`: the same folds, labels, classes and test speakers.

    python benchmarks/peers.py --corpus emodb --root DIR --work DIR --peers nkululeko:svm nkululeko:xgb
    python benchmarks/peers.py --corpus emodb --root DIR --work DIR --peers audiosetfit --whisper DIR
    python benchmarks/peers.py --corpus emodb --root DIR --work DIR --peers ours --whisper DIR

Each tool has an environment of its own in the folder `--work`, made by `venv` and pip on first use. A tool
gets the files and labels of a budget (p % of the labels of the three training sessions), and the files of the
test session. It is used as its own documentation says:

nkululeko:svm, nkululeko:xgb    `python -m nkululeko.train`: openSMILE eGeMAPS functionals, standard scaling,
                                and its SVM or XGBoost with default parameters, as in its emodb examples
audiosetfit                     contrastive fine-tuning of Whisper's encoder, then logistic regression, with
                                the 256 pairs of its README's example at most
audiosetfit:frozen              its baseline without fine-tuning
ours                            `python -m experiments.few_labels`, with Whisper's encoder as third view

UAR is of all test speakers of all folds together. Seconds are CPU seconds, which other work on the machine
hardly changes, of all folds of one amount of labels, from audio files to predictions. Each run of a peer is a
process of its own. Ours shares features and compilation among its runs, so its seconds are those of all
methods and amounts together. Finished runs are kept in `--work`.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pcl_jax import corpora
from pcl_jax.corpora.folds import Fold, labelled, labelled_subset, leave_one_session_out
from pcl_jax.corpora.utterance import Corpus, Utterance
from pcl_jax.evaluation.metrics import uar

REQUIREMENTS = {"nkululeko": "nkululeko==1.14.1", "audiosetfit": "audiosetfit==0.1.0"}
PEERS = ("nkululeko:svm", "nkululeko:xgb", "audiosetfit", "audiosetfit:frozen")
OURS = "ours"


def python_of(tool: str, work: Path) -> Path:
    """Return the Python of a tool's environment, which is made on first use."""
    folder = work / "environments" / tool
    python = folder / "bin" / "python"
    if not python.exists():
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", REQUIREMENTS[tool]], check=True)
        print(f"{tool}: installed in {time.perf_counter() - began:.0f} s", flush=True)
    return python


def write_table(file: Path, utterances: Sequence[Utterance], corpus: Corpus) -> None:
    """Write audio files with their speakers and classes.

    Raises:
        ValueError: An utterance is a part of its file.
    """
    for u in utterances:
        if u.start_s or u.end_s is not None:
            raise ValueError(f"{u.id} is a part of {u.path}; only corpora of one file each can be compared")
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file", "speaker", "emotion"])
        writer.writerows([u.path.resolve(), u.speaker, class_of(u, corpus)] for u in utterances)


def class_of(utterance: Utterance, corpus: Corpus) -> str:
    """Return the name of the utterance's class."""
    label = corpus.label(utterance)
    assert label is not None
    return corpus.classes[label]


def nkululeko_config(folder: Path, model: str, corpus: Corpus) -> str:
    """Return an experiment of nkululeko: its crema-d example for CSV files, with openSMILE's features."""
    return f"""\
[EXP]
root = {folder}
name = results
save_test = {folder}/predictions.csv
[DATA]
databases = ['train', 'test']
train = {folder}/train.csv
train.type = csv
train.split_strategy = train
test = {folder}/test.csv
test.type = csv
test.split_strategy = test
target = emotion
labels = {list(corpus.classes)}
[FEATS]
type = ['os']
scale = standard
[MODEL]
type = {model}
"""


def command_of(peer: str, folder: Path, corpus: Corpus, work: Path, whisper: Path | None) -> list[str | Path]:
    """Return the command that trains a peer on train.csv of a folder and writes predictions.csv."""
    tool, _, variant = peer.partition(":")
    python = python_of(tool, work)
    if tool == "nkululeko":
        config = folder / "experiment.ini"
        config.write_text(nkululeko_config(folder, variant, corpus), encoding="utf-8")
        return [python, "-m", "nkululeko.train", "--config", config]
    if whisper is None:
        raise ValueError("audiosetfit needs --whisper")
    script = Path(__file__).with_name("peers_torch.py")
    return [python, script, whisper, folder, *(["--frozen"] if variant else [])]


def run_peer(
    peer: str, fold: Fold, fraction: float, arguments: argparse.Namespace, corpus: Corpus
) -> tuple[dict[str, str], float]:
    """Train and test a peer on one fold; return the class of each test file, and seconds.

    Raises:
        RuntimeError: The peer failed; its output stands in log.txt of the run's folder.
    """
    name = f"{corpus.name}-{peer.replace(':', '-')}-{fraction:g}-fold{fold.test_session}"
    folder = arguments.work.resolve() / "runs" / name
    finished = folder / "seconds.txt"
    if not finished.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subset = labelled_subset(fold.train, corpus, fraction=fraction, repeat=arguments.repeat, seed=0)
        write_table(folder / "train.csv", subset, corpus)
        write_table(folder / "test.csv", labelled(fold.test, corpus), corpus)
        command = command_of(peer, folder, corpus, arguments.work, arguments.whisper)
        before = cpu_seconds()
        with (folder / "log.txt").open("w") as log:
            ended = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)
        if ended.returncode:
            raise RuntimeError(f"{name}: exit status {ended.returncode}, see {folder / 'log.txt'}")
        finished.write_text(f"{cpu_seconds() - before:.1f}")
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as handle:
        predicted = {row["file"]: row["predictions"] for row in csv.DictReader(handle)}
    return predicted, float(finished.read_text())


def cpu_seconds() -> float:
    """Return the CPU time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def score_peer(
    peer: str, fraction: float, arguments: argparse.Namespace, corpus: Corpus, folds: Sequence[Fold]
) -> tuple[float, float]:
    """Return the UAR in % over the test speakers of all folds, and the seconds that they took."""
    truth, guesses, seconds = [], [], 0.0
    for fold in folds:
        predicted, took = run_peer(peer, fold, fraction, arguments, corpus)
        tested = labelled(fold.test, corpus)
        truth += [class_of(u, corpus) for u in tested]
        guesses += [predicted[str(u.path.resolve())] for u in tested]
        seconds += took
    numbers = {name: number for number, name in enumerate(corpus.classes)}
    true, guessed = (np.array([numbers[name] for name in names]) for names in (truth, guesses))
    return 100 * float(uar(true, guessed, len(numbers))), seconds


def run_ours(arguments: argparse.Namespace, corpus: Corpus) -> None:
    """Run our experiment on the same labels, from audio files on, and print a line per method."""
    work, file = arguments.work.resolve() / "ours", arguments.work.resolve() / f"ours-{corpus.name}.json"
    command = [
        *(sys.executable, "-m", "experiments.few_labels", "--corpus", corpus.name),
        *("--root", str(arguments.root), "--views", "mel", "egemaps", "whisper"),
        *("--speech-model", str(arguments.whisper), "--features", str(work / "features")),
        *("--runs", str(work / "runs"), "--repeats", "1", "--per-class", "--fractions"),
        *(f"{fraction:g}" for fraction in arguments.fractions),
        *("--json", str(file)),
    ]
    before = cpu_seconds()
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run(command, check=True, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    seconds = cpu_seconds() - before
    rows = json.loads(file.read_text(encoding="utf-8"))
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row["fraction"]: row["uar"] for row in rows if row["method"] == method}
        print_line(method, [found[fraction] for fraction in arguments.fractions], [])
    print(f"{OURS}: {seconds:.0f} s for all methods and amounts together", flush=True)


def print_line(name: str, scores: Sequence[float], seconds: Sequence[float]) -> None:
    """Print the UAR at each amount of labels, and the seconds."""
    times = f"  s: {' '.join(f'{value:6.0f}' for value in seconds)}" if seconds else ""
    print(f"{name:20} UAR: {' '.join(f'{value:5.1f}' for value in scores)}{times}", flush=True)


def main() -> None:
    """Run the tools that were asked for and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", default="emodb")
    parser.add_argument("--root", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--work", type=Path, required=True, help="folder of environments and finished runs")
    parser.add_argument("--whisper", type=Path, help="folder of Whisper's encoder")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.02, 0.05, 0.1, 1.0])
    parser.add_argument("--repeat", type=int, default=0, help="number of the labelled subsets")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, OURS], default=[*PEERS, OURS])
    arguments = parser.parse_args()
    corpus = corpora.read(arguments.corpus, arguments.root)
    folds = leave_one_session_out(corpus)
    print(f"{corpus.name}, labels: {' '.join(f'{fraction:.0%}' for fraction in arguments.fractions)}")
    for peer in arguments.peers:
        if peer == OURS:
            run_ours(arguments, corpus)
            continue
        results = [score_peer(peer, fraction, arguments, corpus, folds) for fraction in arguments.fractions]
        print_line(peer, [score for score, _ in results], [seconds for _, seconds in results])


if __name__ == "__main__":
    main()
