"""
A model of a listener and its workers, and of what the kernel keeps for them: both ends
of each channel drive their sessions, without sockets.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from portlisten._model import InternetAddress, Kind, Port
from portlisten._policy.decisions import Decision
from portlisten._policy.ledger import Ledger
from portlisten._wire import listener_session, worker_events, worker_session
from portlisten._wire.codec import (
    FROM_LISTENER,
    FROM_WORKER,
    Decoder,
    encode,
)
from portlisten._wire.frames import (
    MAXIMUM_WINDOW,
    Claim,
    ClientGone,
    Closed,
    Frame,
    ListenerHello,
    Offer,
    Revoked,
    Serving,
    WorkerHello,
)
from portlisten._wire.listener_session import (
    Draining,
    ListenerSession,
    News,
    Ours,
    Refused,
)
from portlisten._wire.session import Broken
from portlisten._wire.worker_events import Adopt, Close
from portlisten._wire.worker_session import WorkerSession
from tests.support.machines import (
    NAMES,
    pick,
)

LISTENER = "the listener"
QUEUE = 4
BUDGET = 12

HELLO = ListenerHello(
    MAXIMUM_WINDOW,
    tuple(
        Port(number, InternetAddress("TCP", "192.0.2.1", 80 + number), name)
        for number, name in enumerate(NAMES)
    ),
    frames=frozenset([Serving.TYPE]),
)


class Client:
    """
    A client and its connection, as the kernel keeps them.

    @ivar port: the port of the connection.
    @ivar descriptors: how many descriptors each holder has.  A L{Wire} holds the
        descriptors in flight.
    @ivar users: the workers that read or wrote something.
    @ivar answers: how many answers the client got.
    @ivar left: whether the client went away.
    @ivar excuse: the reason for which a reset without an answer is right, if one is.
    @ivar channel: the channel to which the listener handed the connection off.
    @ivar claimed: when the listener read the claim.
    @ivar silent: whether it has sent nothing.
    @ivar watched: whether the listener watches it.
    """

    def __init__(
        self,
        number: int,
        port: int,
        accepted: float,
        witness: bool,
        silent: bool = False,
    ) -> None:
        self.number = number
        self.port = port
        self.accepted = accepted
        self.witness = witness
        self.silent = silent
        self.watched = False
        self.descriptors: Counter[Any] = Counter()
        self.users: set[Worker] = set()
        self.answers = 0
        self.left = False
        self.excuse = ""
        self.channel: Channel | None = None
        self.claimed: float | None = None

    def __repr__(self) -> str:
        return f"client {self.number}"

    @property
    def pristine(self) -> bool:
        return not self.users and not self.left

    @property
    def ended(self) -> bool:
        return not +self.descriptors

    def open(self, holder: Any) -> None:
        self.descriptors[holder] += 1

    def close(self, holder: Any) -> None:
        assert self.descriptors[holder] > 0, f"{self} is closed once too often"
        assert not (self.watched and holder == LISTENER), f"{self} is a ghost"
        self.descriptors[holder] -= 1
        if self.ended:
            assert self.answers or self.left or self.excuse, f"{self} is reset"

    def use(self, worker: Worker) -> None:
        self.users.add(worker)
        assert len(self.users) == 1, f"{self} is served by two"

    def answer(self, worker: Worker) -> None:
        self.use(worker)
        self.answers += 1
        assert self.answers == 1, f"{self} is answered twice"


class Wire:
    """
    A channel, as the kernel keeps it: what is in it outlives who wrote it, but
    not who should read it.

    @ivar toWorker: frames, and descriptors, which are L{Client}s here.
    @ivar shut: whether the listener shut its reading side.
    @ivar read: how many bytes the worker has read.
    """

    def __init__(self) -> None:
        self.toWorker: deque[Frame | Client] = deque()
        self.toListener: deque[Frame] = deque()
        self.listenerOpen = True
        self.workerOpen = True
        self.workerDied = False
        self.shut = False
        self.read = 0

    def takeForWorker(self) -> Frame | Client:
        item = self.toWorker.popleft()
        if not isinstance(item, Client):
            self.read += len(encode(item))
        return item

    def closeWorker(self) -> None:
        self.workerOpen = False
        while self.toWorker:
            item = self.toWorker.popleft()
            if isinstance(item, Client):
                item.close(self)

    def closeListener(self) -> None:
        self.listenerOpen = False
        self.toListener.clear()


class World(Protocol):
    """
    What the ends know of each other and of their clients.
    """

    alive: bool
    now: float
    ledger: Ledger
    clients: dict[int, Client]
    channels: list[Channel]

    def run(self, decisions: list[Decision], mayLetGo: Collection[Client] = ()) -> None:
        """
        Carry out the ledger's decisions.
        """


class Worker:
    """
    A worker's process: drives a L{WorkerSession}, as L{portlisten._channel.worker_end}
    does.

    @ivar unwritten: frames that the kernel has not taken.
    @ivar serving: the adopted connections, by id.
    @ivar offers: the offered connections, which it may not touch yet, by id.
    """

    def __init__(
        self,
        world: World,
        window: int,
        names: tuple[str, ...],
        wire: Wire,
        limit: int | None = None,
        first: float | None = None,
    ) -> None:
        self.world = world
        self.wire = wire
        self.names = names or NAMES
        self.session: WorkerSession[Client] = WorkerSession(
            window, names, limit=limit, first=first, leaves=True
        )
        self.decoder = Decoder(FROM_WORKER)
        self.unwritten = list(self.decoder.feed(self.session.hello()))
        self.serving: dict[int, Client] = {}
        self.offers: dict[int, Client] = {}
        self.claimed: set[int] = set()
        self.alive = True
        self.draining = False
        self.farewell = False

    @property
    def ended(self) -> bool:
        """
        Whether it has done with the channel, but for its last words.
        """
        return self.session.ended or not self.alive

    @property
    def mayRead(self) -> bool:
        wire = self.wire
        return wire.workerOpen and bool(wire.toWorker or not wire.listenerOpen)

    @property
    def mayWrite(self) -> bool:
        return self.wire.workerOpen and bool(self.unwritten or self.ended)

    # What it hears

    def readStarved(self) -> None:
        self.read(starved=True)

    def readAll(self) -> None:
        while self.mayRead:
            self.read()

    def read(self, starved: bool = False) -> None:
        """
        Read one frame or descriptor.

        @param starved: whether the worker has no free descriptor.
        """
        if self.wire.toWorker:
            self.take(starved)
        else:
            self.lose()

    def writeAll(self) -> None:
        while self.mayWrite:
            self.write()

    def take(self, starved: bool = False) -> None:
        item = self.wire.takeForWorker()
        if isinstance(item, Client):
            if not starved:
                item.open(self)
                self.obey(
                    self.session.descriptorArrived(Kind.CONNECTIONS, item.number, item)
                )
            elif not self.world.alive:
                item.excuse = "it came to a worker without descriptors to spare"
            item.close(self.wire)
        else:
            self.hear(item)
            self.pump()

    def hear(self, frame: Frame) -> None:
        session = self.session
        if not isinstance(frame, Offer) or self.ended:
            self.obey(session.receive(encode(frame)))
            return
        assert session.theirs is not worker_session.Theirs.DRAINED, "after DRAINED"
        client = self.world.clients[frame.cookie]
        assert NAMES[client.port] in self.names, "nobody asked for it"
        assert frame.port == client.port
        before = session.pending and client.descriptors[self]
        events = session.receive(encode(frame))
        if before and not events:
            self.offers[frame.id] = client
        self.obey(events)

    def obey(self, events: Iterable[worker_events.Event[Client]]) -> None:
        """
        Carry out what the session says.
        """
        for event in events:
            assert not isinstance(event, Broken), event
            if isinstance(event, Close):
                self.discard(event.token)
            elif isinstance(event, Adopt):
                self.adopt(event.offer, event.token)
            elif isinstance(event, worker_events.LeaveRequested):
                self.leave()
            elif isinstance(event, worker_events.Joined):
                self.report()

    # What it does

    def report(self) -> None:
        """
        Report the connections that the channel does not name: in this world, none.
        """
        self.session.serving(len(self.serving) - self.session.inService)

    def leave(self) -> None:
        """
        Drain, since the listener asks for it.
        """
        self.report()
        if not self.draining:
            self.drain()

    def pump(self) -> None:
        frames = list(self.decoder.feed(self.session.outgoing()))
        if frames:
            assert not self.unwritten or self.greeting, "two writes at a time"
            self.unwritten.extend(frames)

    @property
    def greeting(self) -> bool:
        return isinstance(self.unwritten[0], WorkerHello)

    def write(self, count: int = 9) -> None:
        """
        Let the kernel take so many frames, or all frames if they are fewer.
        """
        wire = self.wire
        if self.unwritten and (wire.shut or not wire.listenerOpen):
            self.lose()
            return
        now, self.unwritten = self.unwritten[:count], self.unwritten[count:]
        wire.toListener.extend(now)
        for frame in now:
            if isinstance(frame, Claim):
                self.claimed.update(frame.ids)
        if self.unwritten:
            return
        events = self.session.flushed()
        for event in events:
            assert isinstance(event, Adopt)
            assert event.offer.id in self.claimed, f"{event.token} is touched unclaimed"
        self.obey(events)
        self.pump()
        if self.ended and not self.unwritten:
            self.close()

    def adopt(self, offer: Offer, client: Client) -> None:
        assert self.offers.pop(offer.id) is client
        if client.left:
            client.close(self)
            self.session.clientGone(offer.id)
            self.pump()
        else:
            self.serving[offer.id] = client

    def useOne(self) -> None:
        if self.serving:
            pick(0, self.serving.values()).use(self)

    def finishOne(self) -> None:
        if self.serving:
            self.finish(pick(0, self.serving))

    def finish(self, id: int) -> None:
        client = self.serving.pop(id)
        if not client.left:
            client.answer(self)
        client.close(self)
        self.session.closed(id)
        self.pump()

    def drain(self) -> None:
        self.draining = True
        self.obey(self.session.drain())
        self.pump()

    def bye(self) -> None:
        self.draining = self.farewell = True
        self.obey(self.session.leave("enough"))
        self.pump()

    def lose(self) -> None:
        """
        The channel is broken: read what is left of it, and judge.
        """
        while self.wire.toWorker:
            self.take()
        self.close()

    def close(self) -> None:
        while self.wire.toWorker:
            self.take()
        self.unwritten = []
        self.wire.closeWorker()
        serves = self.session.deathMatters
        assert not (serves and self.world.alive), "the listener lives"
        events = self.session.channelEnded(not self.world.alive)
        mine = {each.offer.id: each.token for each in events if isinstance(each, Adopt)}
        assert mine == (self.offers if serves else {})
        self.obey(events)
        assert not self.offers
        assert self.session.pending == 0

    def entitledTo(self, client: Client) -> bool:
        """
        Whether the worker may serve a client without the listener.
        """
        wire = self.wire
        if client in self.serving.values():
            return True
        revoked = self.session.theirs is worker_session.Theirs.REVOKED
        if self.ended or revoked or Revoked() in wire.toWorker:
            return False
        if client in self.offers.values():
            return True
        held = client.descriptors[self] + client.descriptors[wire] > 0
        coming = {each.cookie for each in wire.toWorker if isinstance(each, Offer)}
        return held and client.number in coming and not self.draining

    def discard(self, client: Client) -> None:
        self.offers = {
            id: each for id, each in self.offers.items() if each is not client
        }
        if not self.world.alive:
            client.excuse = "it came to a worker that takes no more"
        client.close(self)

    def kill(self) -> None:
        self.alive = False
        self.wire.workerDied = True
        for client in self.world.clients.values():
            copies = client.descriptors[LISTENER]
            if self in client.users:
                client.excuse = "its worker died in service"
            elif not copies and self.mayServe(client):
                client.excuse = "its worker died, and the copy was let go"
            for _ in range(client.descriptors[self]):
                client.close(self)
        if self.wire.workerOpen:
            self.wire.closeWorker()

    def mayServe(self, client: Client) -> bool:
        """
        Whether the listener has handed the client off to this worker.
        """
        return client.channel is not None and client.channel.wire is self.wire


class Channel:
    """
    The listener's end of a channel: drives a L{ListenerSession}, as
    L{portlisten._listener.channel} does.

    @ivar clients: the offered connections, by id.
    @ivar outstanding: the ids of those that are offered, or claimed and not closed.
    @ivar limit: how many these may be.
    @ivar due: descriptors to be sent with the next bytes.
    @ivar outbox: frames that the kernel has not taken.
    """

    def __init__(self, world: World, window: int, wire: Wire) -> None:
        self.world = world
        self.window = window
        self.wire = wire
        self.session = ListenerSession(HELLO, self.mayHaveRead)
        self.decoder = Decoder(FROM_LISTENER)
        self.clients: dict[int, Client] = {}
        self.outstanding: set[int] = set()
        self.limit: int | None = None
        self.due: list[Client] = []
        self.outbox: deque[Frame] = deque(self.decoder.feed(self.session.hello()))
        self.joined = False
        self.departed = False
        self.asleep = False
        self.drains = False

    def mayHaveRead(self, size: int) -> bool:
        return size <= self.wire.read

    @property
    def readable(self) -> bool:
        wire = self.wire
        open = not self.session.ended
        return open and bool(wire.toListener or not wire.workerOpen)

    @property
    def writable(self) -> bool:
        return not self.session.ended and bool(self.outbox or self.due)

    @property
    def shuttable(self) -> bool:
        return self.session.ours is Ours.REVOKED

    def offer(self, id: int, port: int, client: Client) -> None:
        assert self.joined
        assert self.session.ours is Ours.OPEN
        assert client.channel is None, f"{client} is handed to two"
        client.channel, client.claimed = self, None
        self.clients[id] = client
        self.outstanding.add(id)
        self.due.append(client)
        self.say(self.session.offer([(id, port, client.number)]))

    def say(self, data: bytes) -> None:
        self.outbox.extend(self.decoder.feed(data))

    def write(self, count: int = 9) -> None:
        if not self.wire.workerOpen:
            self.lose()
            return
        for client in self.due:
            assert client.descriptors[LISTENER], f"{client} is closed before it is sent"
            client.open(self.wire)
            self.wire.toWorker.append(client)
        self.due = []
        for _ in range(min(count, len(self.outbox))):
            self.wire.toWorker.append(self.outbox.popleft())
        if not self.outbox:
            self.sendRevoked()

    def read(self) -> None:
        """
        Read one frame, or the end of the channel.
        """
        if self.wire.toListener:
            self.hear(self.wire.toListener.popleft())
        elif not self.wire.workerOpen:
            self.lose()

    def readAll(self) -> None:
        """
        Read everything at once, and perhaps the end.
        """
        while self.readable:
            if self.wire.toListener:
                self.hearTheRest()
            else:
                self.lose()

    def hearTheRest(self) -> None:
        frames = list(self.wire.toListener)
        self.wire.toListener.clear()
        self.hear(*frames)

    def writeAll(self) -> None:
        while self.writable:
            self.write()

    def hear(self, *frames: Frame) -> None:
        """
        Read frames, all at once.
        """
        for event in self.session.receive(b"".join(map(encode, frames))):
            assert not isinstance(event, Broken), event
            self.obey(event)

    def obey(self, event: News | listener_session.Left) -> None:
        world, ledger = self.world, self.world.ledger
        if isinstance(event, listener_session.Joined):
            self.joined = True
            names = [port.name for port in event.ports]
            self.limit = event.limit
            world.run(
                ledger.addWorker(
                    self,
                    event.window,
                    world.now,
                    names,
                    limit=event.limit,
                    first=event.first,
                )
            )
        elif isinstance(event, Claim):
            self.claimed(event.ids)
        elif isinstance(event, Refused):
            for id in event.ids:
                self.clients.pop(id).channel = None
            self.outstanding.difference_update(event.ids)
            world.run(ledger.refuse(self, event.ids, world.now))
        elif isinstance(event, Closed):
            self.outstanding.difference_update(event.ids)
            world.run(ledger.close(self, event.ids, world.now), self.named(event.ids))
        elif isinstance(event, ClientGone):
            self.outstanding.difference_update(event.ids)
            world.run(
                ledger.clientGone(self, event.ids, world.now), self.named(event.ids)
            )
        elif isinstance(event, Serving):
            assert event.count == 0
        elif isinstance(event, Draining):
            self.drains = True
            ledger.drain(self)
            self.say(self.session.drained())
        else:
            self.part()

    def claimed(self, ids: Iterable[int]) -> None:
        world, ledger = self.world, self.world.ledger
        for client in self.named(ids):
            client.claimed = world.now
        decisions = ledger.claim(self, tuple(ids), world.now)
        joined = sum(channel.joined for channel in world.channels)
        full = len(ledger.copiesOf(self)) == max(self.window, BUDGET // 2 // joined)
        earlier = [
            client
            for client in self.having(claimed=True)
            if client not in self.named(ids)
        ]
        unseen = [client for client in self.named(ids) if not client.witness]
        world.run(decisions, [*(earlier if full else []), *unseen])

    def named(self, ids: Iterable[int]) -> list[Client]:
        return [self.clients[id] for id in ids]

    def having(self, claimed: bool) -> list[Client]:
        return [
            client
            for client in self.clients.values()
            if client.channel is self and (client.claimed is not None) == claimed
        ]

    @property
    def mayLeave(self) -> bool:
        """
        Whether an operator may take the worker out of service.
        """
        return self.joined and not self.departed and self.session.ours is Ours.OPEN

    @property
    def drained(self) -> bool:
        """
        Whether the worker has confirmed that it drains, and has no connection left.
        """
        return self.mayLeave and self.drains and not self.outstanding

    def leave(self) -> None:
        """
        Take the worker out of service.
        """
        self.world.ledger.drain(self)
        self.say(self.session.leave())

    def revoke(self) -> None:
        self.session.revoke("it hangs")
        self.world.ledger.revoke(self)
        if not self.outbox:
            self.sendRevoked()

    def sendRevoked(self) -> None:
        if self.wire.workerOpen and self.session.ours is Ours.REVOKING:
            self.wire.toWorker.extend(self.decoder.feed(self.session.revocation()))

    def shut(self) -> None:
        self.session.shut()
        self.wire.shut = True
        self.hearTheRest()
        self.part()

    def part(self) -> None:
        if self.session.ended:
            return
        self.end()
        for client in self.having(claimed=False):
            client.channel = None
        world = self.world
        self.departed = True
        self.asleep = bool(self.wire.toWorker)
        world.run(
            world.ledger.workerLeft(self, world.now, self.asleep),
            self.having(claimed=True),
        )

    def look(self) -> None:
        """
        See what became of a worker that has left.
        """
        if not self.departed:
            return
        ledger, now = self.world.ledger, self.world.now
        copies = ledger.copiesOf(self)
        if self.wire.workerDied:
            self.departed = False
            touched = [client for client in copies if not client.pristine]
            for client in copies:
                if client not in touched:
                    client.channel = None
            self.world.run(ledger.processEnded(self, touched, now))
        elif self.asleep and not self.wire.toWorker:
            self.asleep = False
            for client in copies:
                client.claimed = now
            ledger.workerAwoke(self, now)

    def lose(self) -> None:
        """
        The worker is gone: read what is left of it, and judge.  It is not dead
        for sure if it may have heard that it is revoked.
        """
        self.hearTheRest()
        if self.session.revokedSent:
            self.part()
        if self.session.ended:
            return
        joined = self.joined
        self.end()
        if not joined:
            return
        world = self.world
        copies = world.ledger.copiesOf(self)
        touched = [client for client in copies if not client.pristine]
        for client in [*self.having(claimed=False), *copies]:
            if client not in touched:
                client.channel = None
        world.run(world.ledger.workerDied(self, touched, world.now))

    def end(self) -> None:
        self.session.end()
        self.joined = False
        self.due = []
        self.outbox.clear()
        self.wire.closeListener()
