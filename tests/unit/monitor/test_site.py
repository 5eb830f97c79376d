"""
Tests for L{portlisten._monitor.site}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control.convert import ControlError
from portlisten._control.messages import StatusAnswer
from portlisten._monitor import site
from portlisten._monitor.history import History
from tests.support.statuses import ALONE, BAD, LISTENER, WELL

ADDRESS = IPv4Address("TCP", "127.0.0.1", 50000)

#: Nobody serves the last port.
SERVED = StatusAnswer(
    replace(
        LISTENER,
        ports=tuple(
            replace(each, workers=0 if each.name == "dns" else 4)
            for each in LISTENER.ports
        ),
    )
)


class SiteTests(SynchronousTestCase):
    """
    Tests for L{site.makeSite}.
    """

    def setUp(self) -> None:
        """
        Make a site, whose source answers when told.

        @ivar answer: what the source answers at once; L{None} for later.
        """
        self.clock = Clock()
        self.answer: StatusAnswer | Exception | None = SERVED
        self.asked: list[Deferred[StatusAnswer]] = []
        self.ages: list[float] = []
        self.site = site.makeSite(self, History(), self.clock)

    def latest(self, age: float) -> Deferred[StatusAnswer]:
        """
        See L{portlisten._monitor.source.Source.latest}.
        """
        self.ages.append(age)
        asked: Deferred[StatusAnswer] = Deferred()
        if isinstance(self.answer, StatusAnswer):
            asked.callback(self.answer)
        elif self.answer is not None:
            asked.errback(self.answer)
        else:
            self.asked.append(asked)
        return asked

    def connect(self) -> tuple[Any, StringTransport]:
        """
        Connect a client.
        """
        transport = StringTransport(peerAddress=ADDRESS)
        channel = self.site.buildProtocol(ADDRESS)
        channel.makeConnection(transport)
        return channel, transport

    def get(
        self, path: str, method: str = "GET", *headers: str
    ) -> tuple[int, dict[str, str], str]:
        """
        Ask for a path.

        @return: the code, the headers and the body.
        """
        channel, transport = self.connect()
        lines = [f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]
        channel.dataReceived("\r\n".join(lines).encode())
        return self.read(transport)

    def read(self, transport: StringTransport) -> tuple[int, dict[str, str], str]:
        """
        Read an answer.
        """
        head, _, body = transport.value().decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body

    def test_health(self) -> None:
        """
        The health of all ports, or of those of one name, has a code and a line.
        """
        nobody = "nobody serves dns"
        for path, code, line in (
            ("/healthz", 503, nobody),
            ("/healthz/", 503, nobody),
            ("/healthz?why=not", 503, nobody),
            ("/healthz/http", 200, "serving http"),
            ("/healthz/http/", 200, "serving http"),
            ("/healthz/%68ttp", 200, "serving http"),
            ("/healthz/dns", 503, nobody),
            ("/healthz/HTTP", 404, "no port is named HTTP; the ports are http,"),
            ("/healthz/-", 404, "no port is without a name; the ports are http,"),
            ("/healthz/%0a%ff%2e", 404, "no port is named "),
        ):
            found, headers, body = self.get(path)
            self.assertEqual(found, code, (path, body))
            self.assertTrue(body.startswith(line), (path, body))
            self.assertEqual(body.count("\n"), 1)
            self.assertEqual(headers["content-type"], "text/plain; charset=utf-8")
            self.assertEqual(headers["content-length"], str(len(body.encode())))
            self.assertEqual(headers["cache-control"], "no-store")
            self.assertEqual(self.ages.pop(), site.AGE_SECONDS)

    def test_silent(self) -> None:
        """
        If nobody answers, the health is bad, and the rest says so.
        """
        self.answer = ControlError("no answer within 5 s")
        for path in ("/healthz", "/healthz/http", "/healthz/nothing"):
            code, _, body = self.get(path)
            self.assertEqual((code, body), (503, "the listener does not answer\n"))
        code, _, body = self.get("/metrics")
        self.assertEqual(code, 200)
        self.assertIn("portlisten_up 0", body)
        self.assertEqual(self.get("/")[0], 200)

    def test_paths(self) -> None:
        """
        Each path has its type, and nothing below it but the health.
        """
        for path, kind in (
            ("/", "text/html; charset=utf-8"),
            ("/metrics", "text/plain; version="),
            ("/metrics/", "text/plain; version="),
            ("/style.css", "text/css; charset=utf-8"),
            ("/live.js", "text/javascript; charset=utf-8"),
            ("/icon.svg", "image/svg+xml"),
        ):
            code, headers, body = self.get(path)
            self.assertEqual(code, 200, path)
            self.assertTrue(headers["content-type"].startswith(kind), headers)
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            again, also, nothing = self.get(path, "HEAD")
            self.assertEqual((again, nothing), (200, ""))
            self.assertEqual(also["content-length"], str(len(body.encode())))

    def test_unknown(self) -> None:
        """
        Any other path is not found, and the answer names the paths.
        """
        for path in (
            "/nothing",
            "/healthz/http/x",
            "/healthz/-/x",
            "/metrics/x",
            "/style.css/x",
            "/live.js/x",
            "/events/x",
            "/metrics//x",
            "/../metrics",
            "/static/style.css",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/Healthz",
        ):
            code, headers, body = self.get(path)
            self.assertEqual(code, 404, path)
            self.assertEqual(
                body, "not found: ask for /, /healthz, /healthz/NAME or /metrics\n"
            )
            self.assertEqual(headers["content-type"], "text/plain; charset=utf-8")

    def test_formats(self) -> None:
        """
        Metrics come as the client wants them, also if several ask at a time.
        """
        openMetrics = "Accept: application/openmetrics-text"
        for status in (ALONE, WELL, BAD):
            self.answer = status
            for _ in range(2):
                plain = self.get("/metrics")
                other = self.get("/metrics", "GET", openMetrics)
                self.assertTrue(plain[1]["content-type"].startswith("text/plain"))
                self.assertIn("openmetrics", other[1]["content-type"])
                self.assertTrue(other[2].endswith("# EOF\n"))
                self.assertFalse(plain[2].endswith("# EOF\n"))
        self.assertIn('{group="web",slot="3"} 7.0', self.get("/metrics")[2])

    def test_later(self) -> None:
        """
        An answer waits for the status, and is dropped if the client has left.
        """
        self.answer = None
        ask = b"GET %s HTTP/1.1\r\nHost: here\r\n\r\n"
        made = []
        for path in (b"/healthz", b"/metrics", b"/"):
            for leaves in (False, True):
                channel, transport = self.connect()
                channel.dataReceived(ask % path)
                self.assertEqual(transport.value(), b"")
                if leaves:
                    channel.connectionLost(Failure(ConnectionDone()))
                made.append((transport, leaves))
        for each in self.asked:
            each.callback(ALONE)
        for transport, leaves in made:
            self.assertEqual(transport.value() == b"", leaves)

    def test_bug(self) -> None:
        """
        A bug is logged, and the client learns that something is wrong.
        """
        self.answer = ValueError("a bug")
        for path in ("/healthz", "/metrics"):
            self.assertEqual(self.get(path)[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.answer = ALONE

        def spoilt(*_: object) -> Any:
            raise ValueError("a bug")

        self.patch(site, "render", spoilt)
        self.patch(site, "health", spoilt)
        for path in ("/healthz", "/metrics"):
            self.assertEqual(self.get(path)[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
