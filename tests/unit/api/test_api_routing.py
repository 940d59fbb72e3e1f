"""Routes, version prefixes, filters and query parameters."""

from __future__ import annotations

import json

import pytest

from swarmpy.api.callers import Access
from swarmpy.api.filters import parse_filters
from swarmpy.api.negotiation import negotiate
from swarmpy.api.request import ApiRequest, ApiResponse
from swarmpy.api.router import ApiRouter, Route, Scope
from swarmpy.errors import InvalidArgument, ProtocolViolation


async def _handler(_request: ApiRequest) -> ApiResponse:
    return ApiResponse()


def _router(*patterns: str) -> ApiRouter:
    return ApiRouter(Route("GET", p, Scope.LOCAL, Access.VIEWER, _handler) for p in patterns)


def test_a_path_finds_its_route_and_its_parts() -> None:
    """Named parts match one segment, whatever is in it; the first route that fits wins."""
    router = _router("/services", "/services/{id}", "/services/{id}/logs")
    found = router.find("GET", "/services/we.b%")
    assert found is not None
    assert (found[0].pattern, found[1]) == ("/services/{id}", {"id": "we.b%"})
    assert router.find("GET", "/services/") is None
    assert router.find("GET", "/services/a/b") is None
    assert router.find("DELETE", "/services") is None
    assert router.find("GET", "/servicesX") is None


def test_a_long_part_takes_many_segments() -> None:
    """Image names have slashes."""
    found = _router("/distribution/{name...}/json").find("GET", "/distribution/docker.io/library/x:1/json")
    assert found is not None
    assert found[1] == {"name": "docker.io/library/x:1"}


def test_the_version_prefix_is_optional() -> None:
    """The path is the same with and without a version between the oldest and the newest."""
    assert negotiate("/info") == "/info"
    assert negotiate("/v1.41/info") == "/info"
    assert negotiate("/v1.12/info") == "/info"
    assert negotiate("/volumes") == "/volumes"


def test_clients_of_the_wrong_age_are_told_so() -> None:
    """Too new is JSON, too old is plain text, both 400."""
    new, old = negotiate("/v9.99/info"), negotiate("/v1.11/info")
    assert isinstance(new, ApiResponse)
    assert isinstance(old, ApiResponse)
    assert (new.status, old.status) == (400, 400)
    assert json.loads(new.body) == {"message": "client version 9.99 is too new. Maximum supported API version is 1.41"}
    assert old.content_type.startswith("text/plain")
    assert old.body.startswith(b"client version 1.11 is too old. Minimum supported API version is 1.12")


@pytest.mark.parametrize("text", ['{"name":{"web":true}}', '{"name":["web"]}', ' {"name": ["web"]} '])
def test_both_encodings_of_filters_are_read(text: str) -> None:
    """The CLI's objects and the Python clients' arrays mean the same."""
    filters = parse_filters(_filtered(text), {"name"})
    assert filters.get("name") == ("web",)
    assert filters.starts_one_of("name", "web2")
    assert not filters.starts_one_of("name", "we")


@pytest.mark.parametrize("text", ["", "{}", '{"name":[]}', '{"name":null}', '{"name":{}}'])
def test_empty_filters_match_everything(text: str) -> None:
    """No filter, or one without values, excludes nothing."""
    assert parse_filters(_filtered(text), {"name"}).one_of("name", "anything")


@pytest.mark.parametrize("text", ["[", "[]", '{"zz":["x"]}', '{"name":"x"}', '{"name":[1]}', '{"name":7}'])
def test_filters_that_are_none_are_refused(text: str) -> None:
    """Broken JSON, unknown keys and values of the wrong type are InvalidArgument."""
    with pytest.raises(InvalidArgument):
        parse_filters(_filtered(text), {"name"})


def test_labels_must_all_match() -> None:
    """Several label values narrow the list; a bare name only has to be there."""
    filters = parse_filters(_filtered('{"label":["a=1","b"]}'), {"label"})
    assert filters.labels("label", {"a": "1", "b": "2"})
    assert not filters.labels("label", {"a": "2", "b": "2"})
    assert not filters.labels("label", {"a": "1"})


def test_booleans_are_gos() -> None:
    """All spellings of Go's ParseBool are understood, others refused."""
    for text in ("1", "t", "T", "TRUE", "true", "True"):
        assert ApiRequest(method="GET", path="/", query={"x": text}).boolean("x")
    for text in ("0", "f", "F", "FALSE", "false", "False"):
        assert not ApiRequest(method="GET", path="/", query={"x": text}).boolean("x")
    with pytest.raises(InvalidArgument):
        ApiRequest(method="GET", path="/", query={"x": "yes"}).boolean("x")


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "٣", "9" * 30])
def test_a_version_must_be_a_number(text: str) -> None:
    """The version parameter is a plain decimal number."""
    with pytest.raises(InvalidArgument, match="invalid service version"):
        ApiRequest(method="POST", path="/", query={"version": text}).version("service")


def test_requests_and_answers_survive_being_forwarded() -> None:
    """The plain forms say all."""
    request = ApiRequest(
        method="POST", path="/a", query={"b": "c"}, headers={"d": "e"}, body=b"\x00f", params={"g": "h"}
    )
    assert ApiRequest.from_plain(request.to_plain()) == request
    response = ApiResponse(status=201, body=b"\xff", content_type="x/y", headers={"A": "b"})
    assert ApiResponse.from_plain(response.to_plain()) == response
    with pytest.raises(ProtocolViolation):
        ApiRequest.from_plain([1])


def _filtered(text: str) -> ApiRequest:
    return ApiRequest(method="GET", path="/", query={"filters": text})
