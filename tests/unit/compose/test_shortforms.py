"""The short spellings: ports, volumes, hosts, pairs and command lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.compose.shortforms import (
    extra_hosts,
    labels,
    pairs,
    parse_ports,
    parse_tmpfs,
    parse_volume,
    split_words,
)
from swarmpy.model.specs import Mount, PortConfig


def ports(text: str) -> list[tuple[int, int, str]]:
    return [(p.published_port, p.target_port, p.protocol) for p in parse_ports(text).ports]


def test_ports() -> None:
    """A port may be published, ranged, of another protocol, and bound to an address that is reported."""
    assert ports("80") == [(0, 80, "tcp")]
    assert ports("8080:80") == [(8080, 80, "tcp")]
    assert ports("53:53/udp") == [(53, 53, "udp")]
    assert ports("9000-9001:80-81") == [(9000, 80, "tcp"), (9001, 81, "tcp")]
    assert ports("8000-8002:80") == [(8000, 80, "tcp"), (8001, 80, "tcp"), (8002, 80, "tcp")]
    assert ports("3000-3001") == [(0, 3000, "tcp"), (0, 3001, "tcp")]
    assert parse_ports("127.0.0.1:8080:80").address == "127.0.0.1"
    assert parse_ports("[::1]:8080:80").ports == (PortConfig(published_port=8080, target_port=80),)
    assert ports("127.0.0.1::80") == [(0, 80, "tcp")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "80:",
        "0",
        "65536",
        "x",
        "80/icmp",
        "80-79",
        "80-81:80-82",
        "1.2.3:80:80",
        "a:80:80",
        "-1",
        "8 0",
        "\uff18\uff10",
    ],
)
def test_bad_ports_are_refused(text: str) -> None:
    """What is no port is refused."""
    with pytest.raises(ValueError):
        parse_ports(text)


def test_volumes() -> None:
    """A source that looks like a path is a bind; options that mean nothing here are left out."""
    assert parse_volume("/data") == Mount(target="/data")
    assert parse_volume("data:/data") == Mount(source="data", target="/data")
    assert parse_volume("./a:/a:ro") == Mount(type="bind", source="./a", target="/a", read_only=True)
    assert parse_volume("~/a:/a:z,rshared") == Mount(type="bind", source="~/a", target="/a", bind_propagation="rshared")
    assert parse_volume("data:/data:nocopy").volume_no_copy
    for text in ("", ":/a", "a:", "a:b:c:d"):
        with pytest.raises(ValueError):
            parse_volume(text)


def test_tmpfs() -> None:
    """A tmpfs may have a size and a mode."""
    assert parse_tmpfs("/run") == Mount(type="tmpfs", target="/run")
    mount = Mount(type="tmpfs", target="/run", tmpfs_size_bytes=64 << 20, tmpfs_mode=0o1777)
    assert parse_tmpfs("/run:size=64m,mode=1777,noexec") == mount
    for text in ("run", "/run:size=x", "/run:mode=9"):
        with pytest.raises(ValueError):
            parse_tmpfs(text)


def test_pairs() -> None:
    """Lists and mappings mean the same; a key alone has no value."""
    assert pairs(["A=1", "B=", "C", "D=a=b"]) == {"A": "1", "B": "", "C": None, "D": "a=b"}
    assert pairs({"A": 1, "B": None, "C": 1.5}) == {"A": "1", "B": None, "C": "1.5"}
    assert labels({"a": None}) == {"a": ""}


def test_extra_hosts() -> None:
    """Hosts of either form become the engine's form; brackets of an IPv6 address go."""
    assert extra_hosts(["db:10.0.0.1", "v6=[::1]", "nothing"]) == ("10.0.0.1 db", "::1 v6")
    assert extra_hosts({"b": "10.0.0.2", "a": "10.0.0.1"}) == ("10.0.0.1 a", "10.0.0.2 b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  ", ()),
        ("a b\tc\nd", ("a", "b", "c", "d")),
        ("a 'b c' \"d e\"", ("a", "b c", "d e")),
        (r"a\ b", ("a b",)),
        ('"a\\"b"', ('a"b',)),
        (r"'a\b'", (r"a\b",)),
        ("''", ("",)),
        ("a''b", ("ab",)),
        ("a # comment\nb", ("a", "b")),
        ("a#b", ("a#b",)),
        ("$VAR | x", ("$VAR", "|", "x")),
    ],
)
def test_command_lines(text: str, words: tuple[str, ...]) -> None:
    """Quotes, backslashes and comments count, and nothing else of a shell."""
    assert split_words(text) == words


@pytest.mark.parametrize("text", ["'a", '"a', "a\\"])
def test_unfinished_command_lines_are_refused(text: str) -> None:
    """A quote that is never closed is a mistake."""
    with pytest.raises(ValueError):
        split_words(text)


@given(st.lists(st.text(min_size=1), max_size=5))
def test_quoted_words_come_back(words: list[str]) -> None:
    """Words put in single quotes are read as they were."""
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    assert split_words(quoted) == tuple(words)
