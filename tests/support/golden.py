"""
Frames, and their bytes: what C{docs/protocol.md} promises to authors of workers in
other languages.
"""

from __future__ import annotations

from portlisten._model import (
    InternetAddress,
    Kind,
    Port,
    UnixAddress,
)
from portlisten._wire.frames import (
    DRAINING,
    MISSING_DESCRIPTOR,
    Bye,
    Claim,
    ClientGone,
    Closed,
    Drain,
    Drained,
    Frame,
    Given,
    Leave,
    Listener,
    ListenerHello,
    Loads,
    Offer,
    Refuse,
    Revoked,
    Serving,
    Withdraw,
    WorkerHello,
)

GOLDEN: list[tuple[Frame, str]] = [
    (
        ListenerHello(16, ()),
        "01 00 0010  706f72746c73746e 0001 0010 0000 0000",
    ),
    (
        ListenerHello(
            128,
            (
                Port(0, InternetAddress("TCP", "192.0.2.1", 80), "a"),
                Port(258, InternetAddress("TCP", "2001:db8::1", 443, scope=7)),
                Port(3, UnixAddress(b"/s"), "b-1"),
                Port(4, UnixAddress(b"\0a")),
                Port(5, UnixAddress(b"")),
            ),
        ),
        "01 00 0052  706f72746c73746e 0001 0080 0005 0000"
        "0000 00 07  04 c0000201 0050"
        "0102 00 17  06 20010db8000000000000000000000001 01bb 00000007"
        "0003 00 03  01 2f73"
        "0004 00 03  01 0061"
        "0005 00 01  01"
        "01 61  00  03 622d31  00  00",
    ),
    (
        ListenerHello(
            16,
            (
                Port(0, InternetAddress("TCP", "192.0.2.1", 80), "a", Kind.LISTENER),
                Port(1, InternetAddress("TCP", "192.0.2.1", 81), "b", Kind.GROUP),
                Port(2, InternetAddress("UDP", "192.0.2.1", 53), "c", Kind.DATAGRAMS),
                Port(3, InternetAddress("UDP", "2001:db8::1", 53), "c", Kind.DATAGRAMS),
            ),
        ),
        "01 00 0054  706f72746c73746e 0001 0010 0004 0000"
        "0000 01 07  04 c0000201 0050"
        "0001 02 07  04 c0000201 0051"
        "0002 03 07  04 c0000201 0035"
        "0003 03 17  06 20010db8000000000000000000000001 0035 00000000"
        "01 61  01 62  01 63  01 63",
    ),
    (WorkerHello(8), "02 00 0010  706f72746c73746e 0001 0008 0000 0001"),
    (
        WorkerHello(8, ("b-1", "a")),
        "02 00 0016  706f72746c73746e 0001 0008 0002 0001  03 622d31  01 61",
    ),
    (
        WorkerHello(8, (), frozenset(list(Kind)[:3])),
        "02 00 0010  706f72746c73746e 0001 0008 0000 0007",
    ),
    (
        WorkerHello(8, (), frozenset([Kind.DATAGRAMS])),
        "02 00 0010  706f72746c73746e 0001 0008 0000 0008",
    ),
    (
        ListenerHello(
            16,
            (),
            False,
            honoursLimit=True,
            honoursFirst=True,
            frames=frozenset([15]),
            claimTimeout=5000,
        ),
        "01 00 0028  706f72746c73746e 0001 0010 0000 0000"
        "0001 0004 00000003  0002 0004 00000002  0003 0004 00001388",
    ),
    (
        WorkerHello(8, (), limit=100, frames=frozenset([14]), label="w-1", first=2000),
        "02 00 002d  706f72746c73746e 0001 0008 0000 0001"
        "0001 0004 00000064  0002 0004 00000001  0003 0003 772d31  0004 0002 07d0",
    ),
    (Leave(), "0e 00 0000"),
    (Serving(0x01020304), "0f 00 0004  01020304"),
    (Given((1, 0x01020304)), "10 00 0008  00000001 01020304"),
    (
        Loads(0x0102, 0x0304, 0x05060708090A0B0C, 0x0D0E0F1011121314),
        "11 00 0018  0102 0000 00000304 05060708090a0b0c 0d0e0f1011121314",
    ),
    (
        Listener(0x0506, 0x0708090A0B0C0D0E),
        "04 00 000c  0506 0000 0708090a0b0c0d0e",
    ),
    (Withdraw(0x0708090A0B0C0D0E), "0d 00 0008  0708090a0b0c0d0e"),
    (
        Offer(0x01020304, 0x0506, 0x0708090A0B0C0D0E),
        "03 00 0010  01020304 0506 0000 0708090a0b0c0d0e",
    ),
    (Claim((1, 0xFFFFFFFF)), "05 00 0008  00000001 ffffffff"),
    (
        Refuse(MISSING_DESCRIPTOR, (2, 3)),
        "06 00 000c  0001 0000 00000002 00000003",
    ),
    (Refuse(DRAINING, (4,)), "06 00 0008  0002 0000 00000004"),
    (Closed((5, 6)), "07 00 0008  00000005 00000006"),
    (Drain(), "08 00 0000"),
    (Drained(), "09 00 0000"),
    (Revoked(), "0a 00 0000"),
    (Bye("stops ü"), "0b 00 0008  73746f707320c3bc"),
    (ClientGone((7,)), "0c 00 0004  00000007"),
]
