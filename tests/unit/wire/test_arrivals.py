"""
Tests for L{portlisten._wire.worker_session}: descriptors that come before it is known
what they are.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._model import Kind, Port, UnixAddress
from portlisten._wire.codec import FROM_WORKER, Decoder, encode
from portlisten._wire.frames import (
    MISSING_DESCRIPTOR,
    Claim,
    Drained,
    Frame,
    Listener,
    ListenerHello,
    Offer,
    Refuse,
    Revoked,
)
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import Adopt, Close, Left, UseSocket
from portlisten._wire.worker_session import WorkerSession

TAKES = (Kind.CONNECTIONS, Kind.LISTENER)
HELLO = ListenerHello(4, (Port(0, UnixAddress(b"/run/www")),))

#: Cookies from here on are those of listening sockets, and then of what cannot be used.
SHARED = 2000
USELESS = 3000


class ArrivalTests(SynchronousTestCase):
    """
    A token is the cookie of its socket.
    """

    def setUp(self) -> None:
        self.identified: list[int] = []
        self.session: WorkerSession[int] = WorkerSession(
            4, takes=TAKES, hasCookie=int.__eq__, identify=self.identify
        )
        self.decoder = Decoder(FROM_WORKER)
        list(self.decoder.feed(self.session.hello()))
        self.hear(HELLO)

    def identify(self, token: int) -> tuple[Kind, int] | None:
        """
        Note the question.
        """
        self.identified.append(token)
        if token >= USELESS:
            return None
        return Kind.LISTENER if token >= SHARED else Kind.CONNECTIONS, token

    def hear(self, *frames: Frame) -> list[Any]:
        """
        Let these frames come in.
        """
        return self.session.receive(b"".join(map(encode, frames)))

    def come(self, *tokens: int) -> list[Any]:
        """
        Let descriptors come in.
        """
        events: list[Any] = []
        for token in tokens:
            events += self.session.descriptorCame(token)
        return events

    def offers(self, *cookies: int) -> list[Any]:
        """
        Let offers come in, whose ids are their cookies less 1000.
        """
        return self.hear(*(Offer(each - 1000, 0, each) for each in cookies))

    def claimed(self) -> list[int]:
        """
        Claim, and return the tokens of what may be touched then.
        """
        list(self.decoder.feed(self.session.outgoing()))
        return [event.token for event in self.session.flushed()]

    def test_inOrder(self) -> None:
        """
        If they come in the order of their offers, nothing else is asked.
        """
        self.assertEqual(self.come(1001, 1002, 1003), [])
        self.assertEqual(self.session.pending, 3)
        self.assertEqual(self.offers(1001, 1002, 1003), [])
        self.assertEqual(self.identified, [])
        self.assertEqual(self.claimed(), [1001, 1002, 1003])
        self.assertEqual(self.session.pending, 0)

    def test_anotherOrder(self) -> None:
        """
        Otherwise their cookies tell which is whose.
        """
        self.come(1002, 1001, 1003)
        self.assertEqual(self.offers(1001, 1002, 1003), [])
        self.assertEqual(self.identified, [1002, 1001, 1003])
        self.assertEqual(self.claimed(), [1001, 1002, 1003])

    def test_lost(self) -> None:
        """
        An offer whose descriptor was lost is refused, and the others are not affected.
        Later ones are in order again.
        """
        self.come(1001, 1003)
        self.assertEqual(self.offers(1001, 1002, 1003), [])
        self.assertEqual(
            list(self.decoder.feed(self.session.outgoing())),
            [Refuse(MISSING_DESCRIPTOR, (2,)), Claim((1, 3))],
        )
        self.assertEqual(
            [event.token for event in self.session.flushed()], [1001, 1003]
        )
        self.identified.clear()
        self.come(1004)
        self.offers(1004)
        self.assertEqual(self.identified, [])
        self.assertEqual(self.claimed(), [1004])

    def test_unmatched(self) -> None:
        """
        While a descriptor without its offer is held, all are found by their cookies:
        one that came twice is closed once.
        """
        self.come(1002, 1001)
        self.assertEqual(self.offers(1001), [])
        self.come(1002)
        self.assertEqual(self.offers(1002), [Close(1002)])
        self.assertEqual(self.claimed(), [1001, 1002])

    def test_useless(self) -> None:
        """
        What cannot be used is closed.
        """
        self.come(USELESS, 1001)
        self.assertEqual(self.offers(1001), [Close(USELESS)])
        self.assertEqual(self.claimed(), [1001])

    def test_shared(self) -> None:
        """
        Shared sockets may come between connections.
        """
        self.come(1001, SHARED, 1002)
        events = self.hear(Offer(1, 0, 1001), Listener(0, SHARED), Offer(2, 0, 1002))
        self.assertEqual(events, [UseSocket(0, SHARED, SHARED)])
        self.assertEqual(self.claimed(), [1001, 1002])

    def test_offeredTwice(self) -> None:
        """
        The descriptor of an offer that came before is held until the end.
        """
        self.come(1001, 1001)
        events = self.offers(1001, 1001)
        self.assertEqual(events[0], Broken("a second OFFER of 1"))
        self.assertEqual(events[1:], [Close(1001)])
        self.assertEqual(self.session.pending, 1)
        self.assertEqual(self.session.channelEnded(False)[:-1], [Close(1001)])

    def test_tooMany(self) -> None:
        """
        More than the window allows without their offers end the channel.
        """
        self.assertEqual(self.come(1001, 1002, 1003, 1004), [])
        self.assertEqual(
            self.come(1005), [Broken("more than 4 descriptors without their offers")]
        )
        self.assertEqual(
            self.session.channelEnded(False)[:-1],
            [Close(cookie) for cookie in (1001, 1002, 1003, 1004, 1005)],
        )

    def test_revoked(self) -> None:
        """
        After REVOKED, connections are closed, those that come as well.  Shared sockets
        are not.
        """
        self.come(1001, SHARED)
        self.assertEqual(self.hear(Revoked()), [Close(1001)])
        self.assertEqual(self.come(1002), [Close(1002)])
        self.assertEqual(self.hear(Listener(0, SHARED)), [UseSocket(0, SHARED, SHARED)])

    def test_ended(self) -> None:
        """
        If the listener dies, what no offer has named is closed, and nothing is asked.
        """
        self.come(1001, 1002)
        self.offers(1001)
        self.assertEqual(
            self.session.channelEnded(True),
            [Close(1002), Adopt(Offer(1, 0, 1001), 1001), Left(None)],
        )
        self.assertEqual(self.identified, [])
        self.assertEqual(self.come(1003), [Close(1003)])

    def test_draining(self) -> None:
        """
        A worker that drains closes what is offered.
        """
        self.session.drain()
        self.come(1001)
        self.assertEqual(self.offers(1001), [Close(1001)])
        self.assertEqual(self.hear(Drained())[0].__class__.__name__, "DrainConfirmed")

    def test_unasked(self) -> None:
        """
        Without anybody to ask, nothing can be used.
        """
        session: WorkerSession[int] = WorkerSession(4)
        session.receive(encode(HELLO))
        session.descriptorCame(1001)
        self.assertEqual(session.receive(encode(Offer(1, 0, 1001))), [Close(1001)])
