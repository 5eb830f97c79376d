"""
The manifests for Kubernetes in C{contrib/kubernetes}.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

FOLDER = Path(__file__).parents[2] / "contrib" / "kubernetes"

#: Part of a manifest.
Object: TypeAlias = "Mapping[str, Any]"

try:
    import yaml
except ImportError:  # pragma: no cover
    missing = "PyYAML is not installed: pip install kubernetes-validate"
else:
    missing = ""


def text(name: str) -> str:
    """
    Read a file of the folder.
    """
    return (FOLDER / name).read_text("utf-8")


def parse(source: str) -> list[Any]:
    """
    Parse the documents of a file.
    """
    return [each for each in yaml.safe_load_all(source) if each is not None]


def documents(name: str) -> list[Object]:
    """
    Read the documents of a file.
    """
    return parse(text(name))


def find(name: str, kind: str) -> Object:
    """
    Find the only document of a kind in a file.
    """
    (found,) = [each for each in documents(name) if each["kind"] == kind]
    return found


@dataclass(frozen=True)
class Container:
    """
    A container of a pod.

    @ivar pod: the pod's specification.
    @ivar spec: the container's own.
    """

    pod: Object
    spec: Object

    @property
    def name(self) -> str:
        """
        Its name.
        """
        found: str = self.spec["name"]
        return found

    @property
    def security(self) -> Object:
        """
        Its security context, with what it has from the pod's.
        """
        return {
            **self.pod.get("securityContext", {}),
            **self.spec.get("securityContext", {}),
        }

    @property
    def environment(self) -> dict[str, Any]:
        """
        The variables that have a plain value.
        """
        return {
            each["name"]: each["value"]
            for each in self.spec.get("env", ())
            if "value" in each
        }

    @property
    def preStop(self) -> Sequence[str]:
        """
        The command that the kubelet runs before it stops the container; empty if there
        is none.
        """
        found: Sequence[str] = (
            self.spec.get("lifecycle", {})
            .get("preStop", {})
            .get("exec", {})
            .get("command", ())
        )
        return found

    def commands(self) -> Iterator[Sequence[str]]:
        """
        All commands that are run in it: its own, those of its probes, and the others.
        """
        yield self.spec["command"]
        for each in ("startupProbe", "readinessProbe", "livenessProbe"):
            found = self.spec.get(each, {}).get("exec")
            if found:
                yield found["command"]
        if self.preStop:
            yield self.preStop

    def calls(self, *program: str) -> list[list[str]]:
        """
        Find the calls of a program in all commands, also in those of a shell.

        @param program: the first words.
        @return: the words that follow.
        """
        found = []
        for command in self.commands():
            for words in _simple(command):
                if tuple(words[: len(program)]) == program:
                    found.append(words[len(program) :])
        return found


def _simple(command: Sequence[str]) -> Iterator[list[str]]:
    """
    Divide a command into simple ones, if it is one of a shell.
    """
    if "-c" not in command:
        yield list(command)
        return
    for line in command[-1].replace("\\\n", " ").splitlines():
        parser = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        parser.whitespace_split = True
        words: list[str] = []
        for word in [*parser, ";"]:
            if not set(word) <= set(";&|"):
                if words or word not in ("while", "until", "do", "if", "then"):
                    words.append(word)
            elif words:
                yield words
                words = []


def containers(name: str) -> dict[str, Container]:
    """
    Find the containers of a file's pods, by their names.
    """
    found = {}
    for document in documents(name):
        if document["kind"] in ("Deployment", "DaemonSet"):
            pod = document["spec"]["template"]["spec"]
            for key in ("initContainers", "containers"):
                for spec in pod.get(key, ()):
                    assert spec["name"] not in found
                    found[spec["name"]] = Container(pod, spec)
    return found


def option(words: Sequence[str], name: str) -> str:
    """
    Find the value of an option, which must be there once.
    """
    (found,) = [
        each.partition("=")[2] for each in words if each.startswith(f"--{name}=")
    ]
    return found
