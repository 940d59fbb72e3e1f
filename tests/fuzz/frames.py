"""``python -m tests.fuzz.frames --seconds 600``: any bytes at whatever takes bytes of a peer, until something gives in.

frames       the decoder of frames
connection   a serving connection, with requests, cancels and streams
handlers     every method of a manager that leads, by every role
raft         Raft messages, and the core that gets them

With atheris (``pip install swarmpy[fuzz]``) inputs are led by the code that they reach; without, or with ``--plain``,
they are mutations of inputs that are nearly right. An input that finds something is written to ``--findings``, and told
with the command that plays it again; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

INTERESTING = (
    *(bytes([number]) for number in (0, 0x7F, 0x80, 0x81, 0x90, 0x91, 0xC0, 0xC1, 0xC3, 0xFF)),
    *(kind + b"\xff\xff\xff\xff" for kind in (b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xce")),
    b"\xc9\x7f\xff\xff\xff\x01",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + b"\x00" * 7,
    b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xcb\x7f\xf0" + b"\x00" * 6,
    b"\x91" * 900 + b"\x90",
    b"\xa4\xff\xfe\xfd\xfc",
    b"\xd7\xff" + b"\x00" * 8,
)
TARGETS = ("frames", "connection", "handlers", "raft")
MAX_BYTES = 1 << 16


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Something near ``data``."""
    found = bytearray(data)
    for _ in range(1 + rng.randrange(4)):
        place = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0 if found:
                found[place % len(found)] ^= 1 << rng.randrange(8)
            case 1 if found:
                found[place % len(found)] = rng.randrange(256)
            case 2:
                found[place:place] = rng.choice(INTERESTING)
            case 3:
                chosen = rng.choice(INTERESTING)
                found[place : place + len(chosen)] = chosen
            case 4:
                del found[place : place + rng.randrange(1, 9)]
            case 5:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                found[place:place] = other[start : start + rng.randrange(1, 200)]
            case _:
                found[place:place] = found[place : place + rng.randrange(1, 50)]
    return bytes(found[:MAX_BYTES])


def plain(
    target: Callable[[bytes], None], seeds: Sequence[bytes], seconds: float, seed: int
) -> tuple[int, bytes | None]:
    """Mutations for so long: how many, and the one that found something, if one did."""
    rng, until, count = random.Random(seed), time.monotonic() + seconds, 0
    pool = list(seeds)
    while time.monotonic() < until or count < len(pool):
        data = pool[count] if count < len(seeds) else mutated(rng.choice(pool), rng, pool)
        count += 1
        try:
            target(data)
        except Exception:
            traceback.print_exc()
            return count, data
        if rng.randrange(50) == 0:
            # A mutation of a mutation gets further; which it is does not matter much without coverage.
            pool[rng.randrange(len(seeds), len(pool)) if len(pool) > 2 * len(seeds) else len(pool) :] = [data]
    return count, None


def guided(name: str, seconds: float, findings: Path) -> int:
    """The same led by coverage. Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["swarmpy"]):
        from tests.fuzz import targets

    targets.quiet()
    target = targets.TARGETS[name]()
    corpus = findings / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in targets.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={findings}/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()
    return 0


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.frames", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", choices=("frames", "connection", "handlers", "raft"), help="all, one by one, if absent"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="in all")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0: another one each time")
    parser.add_argument("--plain", action="store_true", help="without atheris, though it is there")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--play", type=Path, help="an input that found something")
    options = parser.parse_args()
    if options.target and not options.plain and not options.play and _has_atheris():
        return guided(options.target, options.seconds, options.findings)
    return _plain(options)


def _plain(options: argparse.Namespace) -> int:
    from tests.fuzz import targets

    targets.quiet()
    names = [options.target] if options.target else list(targets.TARGETS)
    if options.play:
        for name in names:
            with closing(targets.TARGETS[name]()) as target:
                target(options.play.read_bytes())
        return 0
    seed = options.seed or random.SystemRandom().randrange(1, 1 << 32)
    for name in names:
        with closing(targets.TARGETS[name]()) as target:
            count, found = plain(target, targets.seeds(), options.seconds / len(names), seed)
        print(f"{name}: {count} inputs, seed {seed}")
        if found is not None:
            options.findings.mkdir(parents=True, exist_ok=True)
            file = options.findings / f"{name}-{hashlib.sha256(found).hexdigest()[:16]}"
            file.write_bytes(found)
            print(f"{name}: python -m tests.fuzz.frames --target {name} --play {file}")
            return 1
    return 0


@contextlib.contextmanager
def closing(target: Callable[[bytes], None]) -> Iterator[Callable[[bytes], None]]:
    """The target, and its end."""
    try:
        yield target
    finally:
        getattr(target, "close", lambda: None)()


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: plain mutations instead")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
