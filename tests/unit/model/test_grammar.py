"""The forms of texts that reach the engine, a file name or a command line."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.model import grammar

Check = Callable[[str], None]

DIGEST = "sha256:" + "0123456789abcdef" * 4

GOOD_IMAGES = (
    "busybox", "busybox:1.36", "library/busybox", "docker.io/library/busybox:latest", "host:5000/a/b",
    "localhost/x", "[2001:db8::1]:5000/x", "a_b/c__d/e.f/g--h", "ghcr.io/owner/name:v1.2.3-rc.1",
    f"busybox@{DIGEST}", f"busybox:1@{DIGEST}", "UPPER.example:80/x", "a" * 255,
)  # fmt: skip
BAD_IMAGES = (
    "", " ", "a b", "Busybox", "a/B", "a:", ":a", "a@", "a@sha256:12", "a:b:c", "a//b", "/a", "a/", "a/../b", "../a",
    "..", ".", "a..b/c..d", "a\n", "\na", "a\0", "a;b", "a|b", "$(a)", "`a`", "-a", "a:-b", "a:" + "t" * 129, "ä",
    "0123456789abcdef" * 4, "a%2e", "http://a/b", "a?b", "a#b", "a" * 256, "unix:///var/run", "a/\u202eb", "x..y/z",
    "-h/x",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD_IMAGES)
def test_references_to_images(text: str) -> None:
    """Whatever a registry or an engine can have is let through."""
    assert grammar.is_image(text)


@pytest.mark.parametrize("text", BAD_IMAGES)
def test_what_is_no_image(text: str) -> None:
    """Paths, other addresses and commands are none."""
    assert not grammar.is_image(text)


CHECKS: list[tuple[Check, tuple[str, ...], tuple[str, ...]]] = [
    (grammar.check_object_name, ("web.1.abc", "a", "A_b-c.d"), ("", ".a", "-a", "a/b", "..", "a b", "a\n", "a" * 256)),
    (grammar.check_text, ("", "any\nthing\t$(x)"), ("a\0b",)),
    (grammar.check_line, ("", "1 2\t3"), ("a\nb", "a\0", "\x1b[2J", "a\r")),
    (grammar.check_label, ("traefik.http.routers.web.rule", "a b"), ("", "  ", "a\nb", "\0", "a" * 256)),
    (grammar.check_variable, ("A", "A=", "A=b=c\nd"), ("", "=a", "A=\0")),
    (grammar.check_path, ("/data", "/a b/c", "/...", "/a..b/"), ("", "data", "./a", "/a/../b", "/..", "/a\n", "/a\0",
                                                                 "/" + "a" * 4095)),
    (grammar.check_directory, ("/", "/srv/app", "/a/../b"), ("", "srv", "/a\0", "/a\nb", "/" + "a" * 4095)),
    (grammar.check_volume_name, ("data", "st_data", "a.b"), ("", "/data", "../data", "a/b", "a b")),
    (grammar.check_hostname, ("web-1", "a_b", "db.local", "db.local."), ("", "-a", "a b", "a\n1.2.3.4 b", "a..b",
                                                                         ".a", "a/b", "a" * 65)),
    (grammar.check_user, ("root", "0", "1000:1000", "www-data:adm", r"DOM\me", "_x"), ("", "a b", "a:b:c", "a\n", ":a",
                                                                                      "-a", "a/b", "a:")),
    (grammar.check_group, ("audio", "29"), ("", "a:b", "a b", "-a")),
    (grammar.check_capability, ("NET_ADMIN", "CAP_NET_ADMIN", "all"), ("", "NET ADMIN", "CAP-X", "A\n", "A,B")),
    (grammar.check_sysctl, ("net.core.somaxconn", "net/ipv4/conf/eth0.1/forwarding"), ("", "a", "net..core",
                            "net.core/../x", ".net", "net.a\n", "../kernel")),
    (grammar.check_signal, ("SIGTERM", "TERM", "9", "SIGRTMIN+3"), ("", "SIG TERM", "-9", "999", "9;x")),
    (grammar.check_driver, ("json-file", "vieux/sshfs:latest", "none"), ("", "a b", "../a", "-a", "a\n")),
    (grammar.check_address, ("10.0.0.1", "::1"), ("", "10.0.0", "x", "10.0.0.1\n", "10.0.0.1/8")),
    (grammar.check_search_domain, ("local", "a.b.", "."), ("", "a b", "a\noptions x", "-a")),
    (grammar.check_dns_option, ("ndots:2", "use-vc"), ("", "ndots: 2", "a\nnameserver 1.2.3.4")),
    (grammar.check_ulimit, ("nofile", "core"), ("", "NOFILE", "as", "nofile ")),
    (grammar.check_port_name, ("http", "a.b"), ("", "a b", "a\n")),
    (grammar.check_extra_host, ("10.0.0.1 db", "::1 a b.c", "host-gateway x"), ("", "10.0.0.1", "db 10.0.0.1",
                                "10.0.0.1 a\n6.6.6.6 b", "10.0.0.1 a:b", "gateway x")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "text"),
    [(check, text) for check, good, _ in CHECKS for text in good],
)
def test_good_texts(check: Check, text: str) -> None:
    """What the engine and the kernel understand is let through."""
    check(text)


@pytest.mark.parametrize(
    ("check", "text"),
    [(check, text) for check, _, bad in CHECKS for text in bad],
)
def test_bad_texts(check: Check, text: str) -> None:
    """What could be taken for something else is refused, in one line that can be printed."""
    with pytest.raises(ValueError) as caught:
        check(text)
    assert_line(str(caught.value))


@pytest.mark.parametrize("text", ["a", "web", "a-b_c", "A1", "1", "a--b"])
def test_names(text: str) -> None:
    """Letters and digits, with dashes and underscores between them."""
    assert grammar.is_name(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "_a", "a_", "a.b", "a b", "a\n", "ä", "a/b"])
def test_what_is_no_name(text: str) -> None:
    """Nothing that means something in a path, a DNS name or a file of lines."""
    assert not grammar.is_name(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a.b", "-a", "a\0", "a\n", "a" * 65, "../a"])
def test_what_is_no_id(text: str) -> None:
    """An id is the name of a directory."""
    assert not grammar.is_id(text)
    assert grammar.is_id("0b2k8z" + "1" * 19)


def assert_line(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 400


@settings(deadline=None)
@given(st.text() | st.text("ab./-_:@ \n\0\x1b", max_size=80))
def test_any_text_is_judged(text: str) -> None:
    """Nothing but ValueError comes out, and its message is a line whatever the text was."""
    for check, _, _ in CHECKS:
        try:
            check(text)
        except ValueError as error:
            assert_line(str(error))
    grammar.is_image(text)
    grammar.is_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *(unit * 100_000 + end for unit in ("a", "-", "_", ".", "a.", "a-", "/a", "a:", "9", " ", "\\", "[")
          for end in ("", "!", "\n")),
        "a" + "-" * 100_000 + "!",
    ],
    ids=lambda text: f"{text[:3]!r}...{text[-1]!r}",
)  # fmt: skip
def test_long_texts_take_no_time(text: str) -> None:
    """No text makes a check look at it again and again: the leader would stand still."""
    began = time.process_time()
    for check, _, _ in CHECKS:
        try:
            check(text)
        except ValueError as error:
            assert_line(str(error))
    grammar.is_image(text)
    grammar.is_name(text)
    grammar.is_id(text)
    assert time.process_time() - began < 2
