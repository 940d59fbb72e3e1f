"""How far a pull has come, from an engine's lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.runtime.pull_progress import MAX_LAYERS, PullProgress

MB = 1_000_000
# As a Docker Engine 20.10 tells of an image of three layers, one of which it has.
LINES: list[dict[str, Any]] = [
    {"status": "Pulling from shop/web", "id": "8"},
    {"status": "Already exists", "progressDetail": {}, "id": "aaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbb"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "ccc"},
    {"status": "Waiting", "progressDetail": {}, "id": "ccc"},
    {"status": "Downloading", "progressDetail": {"current": 34 * MB, "total": 50 * MB}, "id": "bbb"},
    {"status": "Downloading", "progressDetail": {"current": 0, "total": 30 * MB}, "id": "ccc"},
    {"status": "Verifying Checksum", "progressDetail": {}, "id": "bbb"},
    {"status": "Download complete", "progressDetail": {}, "id": "ccc"},
    {"status": "Extracting", "progressDetail": {"current": 5, "total": 50 * MB}, "id": "bbb"},
    {"status": "Pull complete", "progressDetail": {}, "id": "bbb"},
    {"status": "Digest: sha256:1"},
]


def test_bytes_and_layers_are_counted() -> None:
    """What is not known yet is not left out without a word; at the end it is unpacked."""
    progress = PullProgress("shop/web:8")
    said = [str(progress)]
    for line in LINES:
        progress.step(line)
        said.append(str(progress))
    assert said[0] == said[1] == "pulling shop/web:8"
    assert said[2] == "pulling shop/web:8: unpacking, layer 1 of 1"
    assert said[6] == "pulling shop/web:8: 34 of at least 50 MB, layer 2 of 3"
    assert said[7] == "pulling shop/web:8: 34 of 80 MB, layer 2 of 3"
    assert said[8] == "pulling shop/web:8: 50 of 80 MB, layer 2 of 3"
    assert said[9] == "pulling shop/web:8: unpacking, layer 2 of 3"
    assert said[-1] == "pulling shop/web:8: unpacking, layer 3 of 3"


@pytest.mark.parametrize("current", [None, "5", -1, True, 1.5])
def test_nonsense_is_nothing(current: Any) -> None:
    """An engine's numbers are taken for what they are."""
    progress = PullProgress("x")
    progress.step({"status": "Downloading", "progressDetail": {"current": current, "total": current}, "id": "a"})
    progress.step({"status": "Downloading", "progressDetail": 7, "id": "a"})
    assert str(progress) == "pulling x: 0 of at least 0 MB, layer 1 of 1"


def test_it_does_not_grow_without_end() -> None:
    """Lines may name any number of layers."""
    progress = PullProgress("x")
    for number in range(2 * MAX_LAYERS):
        progress.step({"status": "Waiting", "id": str(number)})
    assert str(progress).endswith(f"of {MAX_LAYERS}")


WORDS = sorted({line["status"] for line in LINES} | {"Retrying in 5 seconds", "?"})


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "status": st.sampled_from(WORDS),
                "id": st.sampled_from("abc"),
                "progressDetail": st.fixed_dictionaries(
                    {"current": st.integers(-5, 9 * MB), "total": st.integers(-5, 9 * MB)}
                ),
            }
        ),
        max_size=30,
    )
)
def test_never_more_than_all(lines: list[dict[str, Any]]) -> None:
    """Whatever comes in whatever order, no more is there than there is in all."""
    progress = PullProgress("x")
    for line in lines:
        progress.step(line)
    words = str(progress).replace("at least ", "").replace(",", "").split()
    if "MB" in words:
        assert int(words[2]) <= int(words[4])
    if "layer" in words:
        assert 1 <= int(words[-3]) <= int(words[-1])
