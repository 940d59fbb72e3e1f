"""``raft dump`` and ``raft verify``: the Raft log in the data directory of a manager whose daemon does not run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from swarmpy.cli.swarm_lock import read_unlock_key
from swarmpy.errors import DataDirMismatch, LogCorrupted, StorageError
from swarmpy.model.grammar import printable
from swarmpy.model.summary import Summary
from swarmpy.node.raft_verification import Outcome, verify
from swarmpy.node.stopped_raft import EntrySummary, is_locked, stopped_log, summaries
from swarmpy.raft.messages import Member
from swarmpy.security.sealing import UnlockKey
from swarmpy.wire.log_inspection import StoppedLog

MOST_TEXT = 160
"""Characters of a line that say what an entry does; JSON has all."""

_HEADING = f"{'INDEX':>10}  {'TERM':>6}  {'KIND':<11}  {'BYTES':>8}  WHAT"

_directory = click.argument("data_dir", metavar="DATA_DIR", type=click.Path(path_type=Path))
_unlock_key_option = click.option(
    "--unlock-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the unlock key of a locked manager is; without it the key is asked for, or read from standard input.",
)


@click.group()
def raft() -> None:
    """Look into the Raft log of a stopped manager; nothing in the directory is changed."""


@raft.command("verify")
@_directory
@_unlock_key_option
def raft_verify(data_dir: Path, unlock_key_file: Path | None) -> None:
    """Check everything that a manager's log and snapshot must be.

    Exit code 0: sound; 74: damaged; 78: of another node, or written by a newer version.
    """
    found = []
    for finding in verify(data_dir, key_for(data_dir, unlock_key_file)):
        click.echo(f"{finding.outcome:<8}  {finding.check:<10}  {finding.text}")
        found.append(finding)
    for outcome, error in ((Outcome.DAMAGED, LogCorrupted), (Outcome.MISMATCH, DataDirMismatch)):
        bad = [finding for finding in found if finding.outcome is outcome]
        if bad:
            click.echo(f"verdict: {outcome}")
            raise error(f"{data_dir}: {bad[0].check}: {bad[0].text}. {_REMEDIES[outcome]}")
    click.echo("verdict: sound")


_REMEDIES = {
    Outcome.DAMAGED: "Do not start this manager on it: with other managers left, remove raft/ and raft.mark there and "
    "start the daemon, which joins them anew and gets everything from them",
    Outcome.MISMATCH: "Do not start this version of swarmpy on it: use the one that wrote it, and the directory of "
    "one node only",
}


@raft.command("dump")
@_directory
@_unlock_key_option
@click.option("--from", "first", type=click.IntRange(min=1), metavar="INDEX", default=1, help="The first entry.")
@click.option("--to", "last", type=click.IntRange(min=1), metavar="INDEX", help="The last entry.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many entries.")
@click.option("--entries/--no-entries", default=True, show_default=True, help="Each entry, or how many there are.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def raft_dump(
    data_dir: Path,
    first: int,
    last: int | None,
    limit: int | None,
    unlock_key_file: Path | None,
    *,
    entries: bool,
    as_json: bool,
) -> None:
    """Show what is stored: term and vote, snapshot, entries. Never what is in an object, which may be secret."""
    faults, heading = 0, "" if as_json else _HEADING
    with stopped_log(data_dir, key_for(data_dir, unlock_key_file)) as log:
        for record in _records(log, first, last, limit if entries else 0):
            if heading and record["type"] == "entry":
                click.echo(heading)
                heading = ""
            click.echo(json.dumps(record, ensure_ascii=False) if as_json else _line(record))
            faults += bool(record.get("fault"))
    if faults:
        raise LogCorrupted(f'{data_dir} is damaged, as marked: "swarmpy raft verify" says more')


def _records(log: StoppedLog, first: int, last: int | None, limit: int | None) -> Iterator[dict[str, Any]]:
    yield _database(log)
    yield _hard_state(log)
    yield from _snapshot(log)
    found = log.count()
    yield {"type": "log", "entries": found.count, "first": found.first, "last": found.last, "bytes": found.size}
    shown = 0
    if limit == 0:
        return
    for entry in summaries(log, last):
        if entry.index >= first:
            yield _entry(entry)
            shown += 1
            if shown == limit:
                return


def _database(log: StoppedLog) -> dict[str, Any]:
    torn, fault = 0, ""
    try:
        torn = log.torn_bytes()
    except StorageError as error:
        fault = str(error)
    return {"type": "database", "generation": log.extent().generation, "torn_bytes": torn, "fault": fault}


def _hard_state(log: StoppedLog) -> dict[str, Any]:
    stored = log.hard_state()
    return {
        "type": "hard_state",
        "term": stored.state.term,
        "vote": stored.state.vote,
        "commit": stored.state.commit,
        "fault": "" if stored.is_sound else "does not match its checksum",
    }


def _snapshot(log: StoppedLog) -> Iterator[dict[str, Any]]:
    snapshot = log.snapshot()
    if snapshot is None:
        return
    record: dict[str, Any] = {"type": "snapshot", "index": snapshot.index, "term": snapshot.term, "bytes": 0}
    fault, members = "", []
    try:
        conf = snapshot.members()
        members = [
            _member(role, member)
            for role, group in (("voter", conf.voters), ("learner", conf.learners), ("removed", conf.removed))
            for member in group
        ]
        record["bytes"] = log.size_of(snapshot)
        log.data_of(snapshot)
    except StorageError as error:
        fault = str(error)
    yield record | {"sha256": snapshot.sha256, "members": members, "fault": fault}


def _member(role: str, member: Member) -> dict[str, Any]:
    return {
        "raft_id": member.raft_id,
        "role": role,
        "node_id": printable(member.node_id),
        "address": printable(member.address),
    }


def _entry(entry: EntrySummary) -> dict[str, Any]:
    return {
        "type": "entry",
        "index": entry.index,
        "term": entry.term,
        "kind": entry.kind,
        "bytes": entry.size,
        "summary": entry.text,
        "changes": [_change(change) for change in entry.changes],
        "fault": entry.fault,
    }


def _change(change: Summary) -> dict[str, Any]:
    return {
        "action": str(change.action),
        "kind": str(change.kind),
        "id": change.id,
        "name": change.name,
        "fields": None if change.fields is None else list(change.fields),
    }


def _line(record: dict[str, Any]) -> str:
    fault = f"DAMAGED: {record['fault']}" if record.get("fault") else ""
    match record["type"]:
        case "database":
            torn = f", without a torn write of {record['torn_bytes']} bytes" if record["torn_bytes"] else ""
            return f"database    generation {record['generation']}{torn}  {fault}".rstrip()
        case "hard_state":
            vote = record["vote"] or "for nobody"
            return f"hard state  term {record['term']}, vote {vote}, commit {record['commit']}  {fault}".rstrip()
        case "snapshot":
            digest = fault or "sha256 ok"
            about = f"snapshot    index {record['index']}, term {record['term']}, {record['bytes']} bytes, {digest}"
            rows = [
                f"  {m['role']:<8}  {m['raft_id']} node {m['node_id']} at {m['address']}" for m in record["members"]
            ]
            return "\n".join([about, *rows])
        case "log":
            extent = f"{record['first']}..{record['last']}, {record['bytes']} bytes" if record["entries"] else "none"
            return f"entries     {record['entries']}: {extent}"
        case _:
            what = fault or _shortened(record["summary"])
            return f"{record['index']:>10}  {record['term']:>6}  {record['kind']:<11}  {record['bytes']:>8}  {what}"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."


def key_for(data_dir: Path, file: Path | None) -> UnlockKey | None:
    """The unlock key of the manager in ``data_dir``, if it needs one. Raises InvalidArgument."""
    return read_unlock_key(file) if is_locked(data_dir) else None
