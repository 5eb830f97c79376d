"""
Tests for L{portlisten._control.start}.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.settings import ListenerSettings
from portlisten._control.convert import ControlError
from portlisten._control.start import (
    MAXIMUM_SOCKETS,
    GivenPort,
    StartMessage,
    encodeReady,
    encodeStart,
    parseReady,
    parseStart,
)

SETTINGS = ListenerSettings(
    path="/run/s",
    listen=("http=80", "tcp:443"),
    share=("udp:53",),
    mode=0o600,
    group=5,
    allowUsers=(1, 2),
    allowGroups=(3,),
    control="",
    backlog=7,
    queue=8,
    patience=9.5,
    onTimeout="exit",
    balance="round-robin",
    claimTimeout=2.0,
    throttle=0.0,
    window=3,
    retry=0.2,
    grace=4.0,
)
PORTS = (
    GivenPort("http", "CONNECTIONS", "tcp:192.0.2.1:80", 1, kept=True, limits="max=5"),
    GivenPort("", "GROUP", "tcp:192.0.2.1:81", 3),
    GivenPort("dns", "DATAGRAMS", "udp:192.0.2.1:53", 1),
)
MESSAGE = StartMessage(SETTINGS, PORTS, 5)


class StartTests(SynchronousTestCase):
    """
    The start message.
    """

    def changed(self, **changes: Any) -> bytes:
        """
        Make a start message with other fields; without those that are L{None}.
        """
        message = {**json.loads(encodeStart(MESSAGE)), **changes}
        known = {name: each for name, each in message.items() if each is not None}
        return json.dumps(known).encode()

    def settings(self, **changes: Any) -> bytes:
        """
        Make a start message with other settings.
        """
        return self.changed(
            settings={**json.loads(encodeStart(MESSAGE))["settings"], **changes}
        )

    def port(self, **changes: Any) -> bytes:
        """
        Make a start message with a port that is changed.
        """
        ports = json.loads(encodeStart(MESSAGE))["ports"]
        ports[0].update(changes)
        return self.changed(ports=ports)

    def test_all(self) -> None:
        """
        Each setting and each port arrives as it was.
        """
        default = ListenerSettings(path="")
        same = [
            field.name
            for field in fields(SETTINGS)
            if getattr(SETTINGS, field.name) == getattr(default, field.name)
        ]
        self.assertEqual(same, ["wire", "replace", "metrics", "logFormat"])
        line = encodeStart(MESSAGE)
        self.assertEqual(line.count(b"\n"), 1)
        self.assertEqual(parseStart(line), MESSAGE)
        self.assertEqual(MESSAGE.descriptors, 6)

    def test_defaults(self) -> None:
        """
        A setting that is missing has its default.
        """
        message = parseStart(self.changed(settings={"path": "/s"}))
        self.assertEqual(message.settings, ListenerSettings(path="/s"))
        message = parseStart(self.settings(patience=3, group=None))
        self.assertEqual((message.settings.patience, message.settings.group), (3, None))

    def test_wrong(self) -> None:
        """
        Anything that is wrong is an error, in one line.
        """
        for line, expected in [
            (b"", "is no JSON"),
            (b"[" * 100000, "is no JSON"),
            (b"\xff", "is no JSON"),
            (b"3", "is no JSON object"),
            (b'{"ports": 1, "ports": 1}', "a field comes twice"),
            (self.changed(version=2), "another version than 1"),
            (self.changed(version=True), "another version than 1"),
            (self.changed(version=None), "another version than 1"),
            (self.changed(channel=None), "fields settings, ports, channel"),
            (self.changed(more=1), "fields settings, ports, channel"),
            (self.changed(settings=[]), "the settings are no object"),
            (self.changed(settings={}), "the settings: path is missing"),
            (self.settings(path=3), "the settings: path has a wrong type"),
            (self.settings(mode="0600"), "mode has a wrong type"),
            (self.settings(mode=True), "mode has a wrong type"),
            (self.settings(patience="1"), "patience has a wrong type"),
            (self.settings(patience=None), "patience has a wrong type"),
            (self.settings(listen="80"), "listen has a wrong type"),
            (self.settings(listen=[80]), "listen has a wrong type"),
            (self.settings(allowUsers=["a"]), "allowUsers has a wrong type"),
            (self.settings(news=1), 'the settings: "news" is not known'),
            (self.settings(wire="datagram"), "means nothing with wire=datagram"),
            (
                self.changed(settings={"path": "/s", "wire": "datagram"}),
                "the wire must be stream",
            ),
            (self.changed(ports={}), "the ports are no list"),
            (self.changed(ports=[]), "the ports are no list"),
            (self.changed(ports=[3]), "port 0: this is no object"),
            (self.port(name=None), "port 0: name has a wrong type"),
            (self.port(more=3), 'port 0: "more" is not known'),
            (self.port(kind="UNKNOWN"), "its kind must be one of CONNECTIONS"),
            (self.port(kind="x"), "its kind must be one of CONNECTIONS"),
            (self.port(sockets=0), "0 sockets do not fit the kind CONNECTIONS"),
            (self.port(sockets=2), "2 sockets do not fit the kind CONNECTIONS"),
            (self.port(sockets=True), "sockets has a wrong type"),
            (self.port(limits=5), "limits has a wrong type"),
            (self.port(limits="max=0"), "port 0: '0:max=0': max: 0 is not a whole"),
            (self.changed(channel=0), "the channel must come after the ports"),
            (self.changed(channel="5"), "the channel must come after the ports"),
        ]:
            error = self.assertRaises(ControlError, parseStart, line)
            self.assertIn(expected, str(error))
            self.assertEqual(len(str(error).splitlines()), 1)

    def test_many(self) -> None:
        """
        There is a limit of sockets.
        """
        port = GivenPort("", "GROUP", "tcp:192.0.2.1:81", MAXIMUM_SOCKETS)
        line = encodeStart(StartMessage(SETTINGS, (port,), MAXIMUM_SOCKETS))
        error = self.assertRaises(ControlError, parseStart, line)
        self.assertIn("16385 sockets are too many", str(error))


class ReadyTests(SynchronousTestCase):
    """
    The ready message.
    """

    def test_ready(self) -> None:
        """
        It has the number of the process.
        """
        self.assertEqual(parseReady(encodeReady(5)), 5)

    def test_wrong(self) -> None:
        """
        Anything else is an error.
        """
        wrong: list[dict[str, Any]] = [
            {"ready": False},
            {"ready": 1},
            {"pid": "5"},
            {"pid": True},
            {"more": 5},
            {"version": 0},
        ]
        for changes in wrong:
            line = json.dumps({"version": 1, "ready": True, "pid": 5, **changes})
            self.assertRaises(ControlError, parseReady, line.encode())
