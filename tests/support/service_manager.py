"""
A service manager with a descriptor store, as systemd has it: sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from contextlib import suppress
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten import _kernel
from portlisten._process import descriptor_store

#: In a test, stored descriptors come back with the numbers from here on.
FIRST_DESCRIPTOR = 300

_numbers = itertools.count()


class ServiceManager:
    """
    A service manager, which reads its messages when it is asked.

    @param most: how many descriptors it stores.

    @ivar store: the stored sockets, by their names.
    @ivar texts: the messages that it got.
    """

    def __init__(self, most: int = 100) -> None:
        self.store: dict[str, socket.socket] = {}
        self.texts: list[str] = []
        self._most = most
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._name = f"portlisten-test-{os.getpid()}-{next(_numbers)}"
        self._socket.bind(f"\0{self._name}")
        self._socket.setblocking(False)

    @property
    def environment(self) -> dict[str, str]:
        """
        What a process of it has in its environment.
        """
        return {"NOTIFY_SOCKET": f"@{self._name}", "FDSTORE": str(self._most)}

    def read(self) -> dict[str, socket.socket]:
        """
        Read all messages.

        @return: the store, as it is afterwards.
        """
        with suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 10)
                self._receive(data.decode(), descriptors)
        return self.store

    def _receive(self, text: str, descriptors: list[int]) -> None:
        self.texts.append(text)
        said = dict(line.split("=", 1) for line in text.splitlines())
        name = said.get("FDNAME", "stored")
        if said.get("FDSTOREREMOVE") == "1" and name in self.store:
            self.store.pop(name).close()
        for each in descriptors:
            sock = socket.socket(fileno=each)
            known = {_kernel.cookie(other) for other in self.store.values()}
            full = len(self.store) >= self._most
            if said.get("FDSTORE") != "1" or _kernel.cookie(sock) in known or full:
                sock.close()
                continue
            assert name not in self.store, name
            assert said["FDPOLL"] == "0", text
            self.store[name] = sock

    def passed(self, pid: int) -> dict[str, str]:
        """
        What tells a process of the stored sockets.
        """
        return {
            "LISTEN_PID": str(pid),
            "LISTEN_FDS": str(len(self.store)),
            "LISTEN_FDNAMES": ":".join(self.store),
        }

    def close(self) -> None:
        """
        Close all sockets.  May be called again.
        """
        if self._socket.fileno() != -1:
            self.read()
            self._socket.close()
        for each in self.store.values():
            each.close()
        self.store.clear()


def managed(test: SynchronousTestCase, most: int = 100) -> ServiceManager:
    """
    Make this process one of a service manager, until the test is over.
    """
    manager = ServiceManager(most)
    test.addCleanup(manager.close)
    environment: Any = {**os.environ, **manager.environment}
    test.patch(os, "environ", environment)
    test.patch(descriptor_store, "_stored", set())
    return manager


def restarted(test: SynchronousTestCase, manager: ServiceManager) -> None:
    """
    Give this process what the next process gets.
    """
    test.patch(descriptor_store, "_stored", set())
    test.patch(descriptor_store, "FIRST_DESCRIPTOR", FIRST_DESCRIPTOR)
    for number, sock in enumerate(manager.read().values(), FIRST_DESCRIPTOR):
        copy = fcntl.fcntl(sock, fcntl.F_DUPFD, number)
        assert copy == number, f"{number} is in use"
    passed = manager.passed(os.getpid())
    test.patch(_kernel, "initialEnvironment", lambda: passed)
