"""Messages grouped for the network: by receiver, in parts that fit a frame, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from swarmpy.raft.messages import Message

MAX_FRAME_BYTES = 2 * 1024 * 1024


def size_of(message: Message) -> int:
    """What a message weighs: the bytes of its entries or its chunk. The rest of it is small."""
    size = sum([len(entry.data) for entry in message.entries])
    return size if message.snapshot is None else size + len(message.snapshot.data)


def frames(messages: Iterable[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    """(receiver, messages) pairs. A message that is larger than a frame goes alone."""
    batches: dict[int, list[Message]] = {}
    for message in messages:
        batches.setdefault(message.to, []).append(message)
    for raft_id, batch in batches.items():
        if len(batch) == 1:
            yield raft_id, batch
        else:
            for frame in _split(batch):
                yield raft_id, frame


def _split(batch: list[Message]) -> Iterator[list[Message]]:
    frame: list[Message] = []
    size = 0
    for message in batch:
        more = size_of(message)
        if size + more > MAX_FRAME_BYTES and frame:
            yield frame
            frame, size = [], 0
        frame.append(message)
        size += more
    yield frame
