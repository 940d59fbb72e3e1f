"""Join tokens."""

from __future__ import annotations

import hmac
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.model.states import Role
from swarmpy.security import tokens
from swarmpy.security.tokens import make_token, make_tokens, parse_token, role_of_token

DIGEST = "0123456789" * 5
TOKENS = make_tokens(DIGEST, random.Random(1))


def test_token_has_dockers_form() -> None:
    """A token is SWMTKN-1-, fifty characters and twenty-five."""
    parts = make_token(DIGEST, random.Random(1)).split("-")
    assert parts[:3] == ["SWMTKN", "1", DIGEST]
    assert len(parts[3]) == 25


def test_token_parses_to_its_parts() -> None:
    """What was made can be parsed, spaces around it do not matter, and the secret is not shown."""
    parsed = parse_token(f" {TOKENS.worker}\n")
    assert parsed.ca_digest == DIGEST
    assert TOKENS.worker.endswith(parsed.secret)
    assert parsed.secret not in repr(parsed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SWMTKN-1",
        TOKENS.worker[:-1],
        TOKENS.worker + "0",
        TOKENS.worker + "-0",
        TOKENS.worker.replace("SWMTKN-1", "SWMTKN-2"),
        TOKENS.worker.upper(),
        TOKENS.worker[:-1] + "é",
    ],
)
def test_malformed_tokens_are_refused(text: str) -> None:
    """Anything else is InvalidArgument, with a message that does not quote it."""
    with pytest.raises(InvalidArgument, match=r"^invalid join token: "):
        parse_token(text)


def test_token_gives_its_role() -> None:
    """Each token gives its own role; secrets differ."""
    assert role_of_token(TOKENS.worker, TOKENS) is Role.WORKER
    assert role_of_token(TOKENS.manager, TOKENS) is Role.MANAGER
    assert TOKENS.worker != TOKENS.manager


@given(st.text())
def test_any_other_text_gives_no_role(text: str) -> None:
    """What is not a token of the cluster gives nothing, and never an error."""
    assert role_of_token(text, TOKENS) is None


@pytest.mark.parametrize(
    "text", [TOKENS.worker, TOKENS.manager, "", "x", TOKENS.worker[:-1], TOKENS.manager[:-1] + "é", "\udcff"]
)
def test_whatever_is_presented_is_compared_with_both(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Always with both tokens, and in constant time: how long it takes tells nothing of how much is right."""
    compared: list[bytes] = []

    def compare(given: bytes, right: bytes) -> bool:
        compared.append(right)
        return hmac.compare_digest(given, right)

    monkeypatch.setattr(tokens, "hmac", SimpleNamespace(compare_digest=compare))
    role_of_token(text, TOKENS)
    assert compared == [TOKENS.manager.encode(), TOKENS.worker.encode()]
