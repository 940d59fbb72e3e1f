"""What a web page can make a browser send is refused, and what clients send is not."""

from __future__ import annotations

import attrs
import pytest
from api_world import BenchNode, World, api_of, request

from swarmpy.api.browsers import body_refusal, host_of, refusal


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://localhost:2376"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "something new"},
    ],
)
async def test_requests_that_a_page_made_are_refused(headers: dict[str, str]) -> None:
    """Reads as well as writes, whoever's certificate or socket the browser has."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    for method, path in (("POST", "/swarm/leave"), ("DELETE", "/services/x"), ("GET", "/swarm"), ("GET", "/info")):
        answer = await world.apis["m1"].handle(attrs.evolve(request(method, path), headers=headers))
        assert answer.status == 403, (method, path)
        assert b"not for web pages" in answer.body
    assert world.nodes["m1"].leaves == []
    # The status page can be looked at by a page of another origin, though the browser does not show it what is there.
    answer = await api_of(BenchNode("w1")).handle(attrs.evolve(request("GET", "/status"), headers=headers))
    assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (200, False)


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}])
def test_other_clients_are_not_refused(headers: dict[str, str]) -> None:
    """They send none of these headers; a person who types the address is no page."""
    assert refusal(headers) is None


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/json",
        "application/json+x, text/plain",
    ],
)
def test_bodies_that_say_that_they_are_no_json_are_refused(kind: str) -> None:
    """A form's body can be valid JSON: only what no form can say is believed."""
    refused = body_refusal({"content-type": kind})
    assert refused is not None
    assert refused.status == 400


@pytest.mark.parametrize("kind", ["", "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_not_refused(kind: str) -> None:
    """Nor a body without a kind, as some clients send it."""
    assert body_refusal({"content-type": kind}) is None
    assert body_refusal({}) is None


async def test_a_form_changes_nothing() -> None:
    """A simple cross-site POST has no mark in browsers of long ago; it has a form's content type."""
    node = BenchNode("", local_state="inactive")
    body = b'{"ListenAddr":"0.0.0.0:2377"}'
    asked = attrs.evolve(request("POST", "/swarm/init", body), headers={"content-type": "text/plain"})
    assert (await api_of(node).handle(asked)).status == 400
    assert node.inits == []
    # The docker command sends this content type with an empty body.
    worker = BenchNode("w1")
    asked = attrs.evolve(request("POST", "/swarm/leave"), headers={"content-type": "text/plain"})
    assert (await api_of(worker).handle(asked)).status == 200
    assert worker.leaves == [(False, None)]


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("Manager.Example:2376", "manager.example"),
        ("[2001:DB8::1]:2376", "2001:db8::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("a:b:c", None),
        ("a:70000000", None),
        ("[::1", None),
    ],
)
def test_the_host_in_a_header(header: str, host: str | None) -> None:
    """Its name, or None for what is no Host header."""
    assert host_of(header) == host
