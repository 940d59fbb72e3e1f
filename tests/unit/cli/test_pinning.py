"""What becomes of images when they are deployed, with a daemon that has a registry: of a stack, and of services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.main import main

OLD, NEW = ("sha256:" + digit * 64 for digit in "12")
IMAGE = "reg:5000/web:8"


class Stack:
    """A stack of one service, deployed again and again."""

    def __init__(self, daemon: Any, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.daemon, self._file, self._capsys = daemon, file, capsys
        daemon.has_engine = True
        daemon.digests[IMAGE] = OLD

    def deploy(self, *more: str, image: str = IMAGE, word: str = "a") -> str:
        """What it says on standard error; it ends well."""
        self._file.write_text(f"services:\n  web:\n    image: {image}\n    command: [{word}]\n")
        code = main(["--socket", str(self.daemon.socket), "stack", "deploy", "-d", *more, "-c", str(self._file), "st"])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return said.err

    @property
    def image(self) -> str:
        """The image of the service, as it is now."""
        return str(self._template["ContainerSpec"]["Image"])

    @property
    def platforms(self) -> Any:
        """Its platforms."""
        return self._template.get("Placement", {}).get("Platforms")

    @property
    def _template(self) -> dict[str, Any]:
        (service,) = self.daemon.services.values()
        found: dict[str, Any] = service["Spec"]["TaskTemplate"]
        return found


@pytest.fixture
def stack(daemon: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stack:
    """A stack that is not deployed yet."""
    return Stack(daemon, tmp_path / "stack.yml", capsys)


def test_a_tag_is_pinned_when_it_is_deployed(stack: Stack) -> None:
    """Digest and platforms are in the service; a tag that has moved is an update, one that has not is none."""
    assert stack.deploy() == ""
    assert stack.image == f"{IMAGE}@{OLD}"
    assert stack.platforms == [{"Architecture": "amd64", "OS": "linux"}]
    stack.daemon.requests.clear()
    stack.deploy()
    assert not [line for line in stack.daemon.requests if line.startswith("POST")]
    stack.daemon.digests[IMAGE] = NEW
    stack.deploy()
    assert stack.image == f"{IMAGE}@{NEW}"


def test_changed_asks_for_new_images_only(stack: Stack) -> None:
    """The same image in the file keeps its digest and platforms, whatever else changes; another one is asked for."""
    stack.deploy("--resolve-image", "changed")
    stack.daemon.digests.update({IMAGE: NEW, "reg:5000/web:9": NEW})
    stack.deploy("--resolve-image", "changed", word="b")
    assert stack.image == f"{IMAGE}@{OLD}"
    assert stack.platforms == [{"Architecture": "amd64", "OS": "linux"}]
    stack.deploy("--resolve-image", "changed", image="reg:5000/web:9")
    assert stack.image == f"reg:5000/web:9@{NEW}"
    assert [image for image, _ in stack.daemon.asked] == [IMAGE, "reg:5000/web:9"]


def test_never_asks_nobody(stack: Stack) -> None:
    """A new service has the tag; one that is pinned keeps its digest while the file has the same image."""
    stack.deploy("--resolve-image", "never")
    assert (stack.image, stack.platforms, stack.daemon.asked) == (IMAGE, None, [])
    stack.deploy()
    stack.deploy("--resolve-image", "never", word="b")
    assert stack.image == f"{IMAGE}@{OLD}"
    stack.deploy("--resolve-image", "never", image="reg:5000/web:9")
    assert stack.image == "reg:5000/web:9"


def test_a_registry_that_does_not_answer_is_a_warning(stack: Stack) -> None:
    """In Docker's words, with the reason; the tag is used, except where that would undo a digest of the same image."""
    stack.daemon.digests.clear()
    said = stack.deploy()
    assert said.startswith(
        f"image {IMAGE} could not be accessed on a registry to record\n"
        f"its digest. Each node will access {IMAGE} independently,\n"
        "possibly leading to different nodes running different\nversions of the image.\n"
    )
    assert "reg:5000 does not answer" in said
    assert stack.image == IMAGE
    stack.daemon.digests[IMAGE] = OLD
    stack.deploy()
    stack.daemon.digests.clear()
    assert "keeps the digest that it has" in stack.deploy()
    assert stack.image == f"{IMAGE}@{OLD}"


def test_what_is_pinned_in_the_file_is_not_asked_for(stack: Stack) -> None:
    """It says itself what it is."""
    stack.deploy(image=f"reg:5000/web@{NEW}")
    assert (stack.image, stack.daemon.asked) == (f"reg:5000/web@{NEW}", [])


def test_the_registry_is_shown_credentials_only_when_they_are_to_be_sent(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the service itself: ``--with-registry-auth``."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"auths": {"reg:5000": {"auth": "dTpw"}}}')
    stack.deploy()
    stack.deploy("--with-registry-auth")
    assert [bool(auth) for _, auth in stack.daemon.asked] == [False, True]


def test_where_no_engine_is_nothing_is_pinned(stack: Stack) -> None:
    """Plain processes have no image: nothing is said. Where another node has an engine, the tag is its own affair."""
    stack.daemon.has_engine = False
    node = stack.daemon.nodes["n0"]
    node["Description"]["Engine"] = {"EngineVersion": "process"}
    assert stack.deploy() == ""
    assert stack.image == IMAGE
    node["Description"]["Engine"] = {"EngineVersion": "20.10.24"}
    assert "could not be accessed on a registry" in stack.deploy()


def test_a_wrong_word_is_refused(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """With the words that there are."""
    arguments = ["--socket", str(stack.daemon.socket), "stack", "deploy", "--resolve-image", "maybe", "-c", "x", "st"]
    assert main(arguments) == 2
    assert "'always', 'changed', 'never'" in capsys.readouterr().err


# -- single services --------------------------------------------------------------------------------------------------


def test_a_service_is_pinned_when_it_is_created_and_when_its_image_is_changed(
    daemon: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by other changes; where nobody answers it has the tag, and no platforms of the image before."""
    daemon.has_engine = True
    daemon.digests[IMAGE] = OLD

    def run(*arguments: str) -> str:
        code = main(["--socket", str(daemon.socket), "service", *arguments])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.err

    def template() -> dict[str, Any]:
        (service,) = daemon.services.values()
        found: dict[str, Any] = service["Spec"]["TaskTemplate"]
        return found

    platforms = {"Platforms": [{"Architecture": "amd64", "OS": "linux"}]}
    assert run("create", "-d", "--name", "web", IMAGE) == ""
    assert (template()["ContainerSpec"]["Image"], template()["Placement"]) == (f"{IMAGE}@{OLD}", platforms)
    daemon.digests[IMAGE] = NEW
    run("update", "-d", "--env-add", "A=1", "web")
    assert template()["ContainerSpec"]["Image"] == f"{IMAGE}@{OLD}"
    run("update", "-d", "--image", IMAGE, "web")
    assert (template()["ContainerSpec"]["Image"], template()["Placement"]) == (f"{IMAGE}@{NEW}", platforms)
    asked = len(daemon.asked)
    run("update", "-d", "--no-resolve-image", "--image", "reg:5000/web:9", "web")
    assert (template()["ContainerSpec"]["Image"], template()["Placement"]) == ("reg:5000/web:9", {})
    assert len(daemon.asked) == asked
    assert "image reg:5000/web:9 could not be accessed" in run("update", "-d", "--image", "reg:5000/web:9", "web")
    assert template()["ContainerSpec"]["Image"] == "reg:5000/web:9"
