"""`pcl extract` and `pcl features`: compute features, and maintain those that are there."""

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import (
    UsageError,
    check_views,
    choose_views,
    extract_features,
    parse_shard,
    read_corpus,
    read_usable,
)
from pcl_jax.corpora import leakage
from pcl_jax.corpora.utterance import Corpus
from pcl_jax.features import export, maintain, store
from pcl_jax.features.maintain import StoredFeatures
from pcl_jax.features.store import StoreError


def extract(command: flags.Extract) -> int:
    """Compute the features that are missing."""
    shard = parse_shard(command.shard) if command.shard else None
    check_views(command, command.views)
    corpus = read_usable(command)
    leakage.check(corpus.utterances)  # before features are computed that no command would train on
    extract_features(command, choose_views(command, command.views), corpus, shard)
    return 0


def maintain_features(command: flags.Features) -> int:
    """List, verify, remove or export the stores of a features folder; return 1 if one is damaged."""
    match command.action:
        case "list":
            terminal.out.print(terminal.stores_table(maintain.stores(command.features)))
        case "verify":
            return _verify(command)
        case "gc":
            _remove_unused(command)
        case "export":
            _export(command)
    return 0


def _verify(command: flags.Features) -> int:
    corpus = read_corpus(command) if command.root is not None else None
    stores = maintain.stores(command.features)
    if not any(corpus is None or stored.corpus == corpus.name for stored in stores):
        content = "features" if corpus is None else f"features of {corpus.name}"
        raise StoreError(f"{command.features} holds no {content}, so there is nothing to verify")
    found = [_verify_store(command, stored, corpus) for stored in stores]
    return 0 if all(found) else 1


def _verify_store(command: flags.Features, stored: StoredFeatures, corpus: Corpus | None) -> bool:
    """Print what is wrong with a store; return whether nothing is, or all of it was repaired."""
    damaged = maintain.damaged_parts(stored.folder)
    for part, faults in damaged.items():
        terminal.out.print(*faults, sep="\n", markup=False, highlight=False)
        if command.repair:
            part.unlink()
            terminal.out.print(f"{part}: removed; pcl extract computes its rows again", highlight=False)
    changed = []
    if corpus is not None and corpus.name == stored.corpus and (command.repair or not damaged):
        changed = maintain.changed_audio(store.open(stored.folder), corpus.utterances)
    for id in changed:
        line = f"{stored.folder}: the audio of {id!r} has changed since, or is gone"
        terminal.out.print(line, markup=False)
    if not damaged and not changed:
        terminal.out.print(f"{stored.folder}: whole", highlight=False)
    return not changed and (not damaged or command.repair)


def _remove_unused(command: flags.Features) -> None:
    unused = maintain.unused_stores(command.features, command.runs)
    for stored in unused:
        terminal.out.print(f"{stored.folder} ({terminal.size(stored.bytes)})", highlight=False)
    total = terminal.size(sum(stored.bytes for stored in unused))
    question = f"remove these {len(unused)}, {total}? [y/N] "
    if unused and (command.yes or terminal.ask(question)):
        for stored in unused:
            store.remove(stored.folder)
        terminal.out.print(f"removed {total}")
    else:
        terminal.out.print("removed nothing" + (" (--yes does)" if unused else ": all is needed"))


def _export(command: flags.Features) -> None:
    if command.to is None or len(command.views) != 1:
        raise UsageError(
            "export needs one view and a target: --views NAME --to FILE (.csv, .parquet, or a folder)"
        )
    (view,) = choose_views(command, command.views).values()
    corpus = read_corpus(command)
    stored = store.open(store.place(command.features, corpus.name, view.name, view.describe()))
    count = export.export(corpus, view.name, stored, command.to)
    terminal.out.print(f"{view.title} of {count} utterances: {command.to}", highlight=False)
