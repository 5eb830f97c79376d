"""
Limits of sources in settings, through the real commands: each that is wrong is one
clear error, and a reload changes those that are right.
"""

from __future__ import annotations

import os

from twisted.internet.threads import deferToThread

from tests.support.asynchronous import asynchronous
from tests.support.clients import Crowd, ask, connect
from tests.support.processes import Processes
from tests.support.programs import command
from tests.support.running import Run
from tests.support.waiting import sleep

#: Wrong arguments of C{twistd portlisten}, and what is said of them.
WRONG = [
    ("80:max-per-source=0", "max-per-source: 0 is not a whole number from 1 to"),
    ("80:max=-1", "max: '-1' is not a whole number from 1 to"),
    ("80:rate=20", "rate: '20' is no rate: it needs a unit, as in 20/s for"),
    ("80:rate=0/s", "rate: a rate of 0/s is not possible: give at least 1/h"),
    ("80:rate=20/s burst 0", "rate: a burst of 0 is not possible: give at least 1"),
    ("80:rate-per-source=9/w", "rate-per-source: '9/w' is no rate: give connections"),
    ("80:rate", "rate has no value: write rate=N/s"),
    ("80:max=5:max=6", "has max twice"),
    ("80:allow=300.1.1.1", "allow: '300.1.1.1' is no address and no network: give"),
    ("80:allow=10.0.0.1/8", "bits behind the prefix: write 10.0.0.0/8 for the network"),
    ("80:deny=", "deny: it has no network: give some, such as 192.0.2.7,10.0.0.0/8"),
    ("80:deny=2001:db8::/32", r"if it is of IPv6, write each colon as '\:'"),
    ("80:allow=10.0.0.0/8:deny=10.0.0.0/8", "allow: 10.0.0.0/8 is in deny as well"),
    ("80:max=5:beyond=drop", "beyond: 'drop' is none of reset, close, wait"),
    ("80:beyond=wait", "beyond: there is no limit that it is for: give a limit"),
    ("80:deny=10.0.0.0/8:beyond=wait", "beyond: wait is for max-per-source, "),
    ("80:max=5:max-per-source=6", "max-per-source: 6 is more than max, which is 5"),
    ("80:fair=no", "fair: without limits, sources do not take turns: leave fair=no"),
    ("80:fair=yes:source-prefix6=129", "source-prefix6: 129 is not a whole number"),
    ("80:max=5:source-prefix=24", "source-prefix: nothing here counts sources: give"),
    ("80:rate=5/s:proxy-from=10.0.0.1", "proxy-from: nothing here goes by the source"),
    ("80:max=5:mptcp=yes", "max: the kernel does not say which connections of Multi"),
    ("unix:/run/x:max=5", "max is for TCP ports only, since clients of a Unix socket"),
    ("--share=80:max=5", "max is not for --share, since workers accept on this port"),
    ("--share=udp:53:rate=5/s", "rate is for TCP ports only: leave it out"),
    ("tcp6:80:allow=10.0.0.0/8", "allow: clients of this port are of IPv6, and no"),
]

#: Wrong arguments with the wire of 2002.
DATAGRAM = [
    ("80:max-per-source=5", "max-per-source goes with --wire=stream only"),
    ("80:rate=5/s:beyond=wait", "beyond=wait goes with --wire=stream only"),
]

FILE = """
path = "{folder}/socket"
{user}
[ports.a]
listen = "8080:max-per-source=0"

[ports.b]
listen = ["8081:rate=20", '8082:deny=2001\\:db8\\:\\:1/32']

[ports.c]
share = "8083:max=5"
"""


def test_commandLine(processes: Processes) -> None:
    """
    The listener does not start, and says why in one line.
    """
    cases = [
        *((["--wire=datagram", text], text, reason) for text, reason in DATAGRAM),
        *(([text], text, reason) for text, reason in WRONG),
    ]
    started = [
        processes.twistd("portlisten", *arguments, "./socket")
        for arguments, _, _ in cases
    ]
    for process, (_, text, reason) in zip(started, cases, strict=True):
        assert process.wait() == 1
        (line,) = process.output.splitlines()
        assert line.startswith("portlisten: "), line
        assert repr(text.removeprefix("--share=")) in line
        assert reason in line


def test_file(processes: Processes) -> None:
    """
    C{portlisten check} names all mistakes of a file, each in one line.
    """
    path = processes.folder / "web.toml"
    user = 'user = "nobody"' if os.geteuid() == 0 else ""
    path.write_text(FILE.format(folder=processes.folder, user=user))
    process = processes.start(command("portlisten"), "check", str(path))
    assert process.wait() == 1
    lines = [line.removeprefix(f"{path}: ") for line in process.output.splitlines()]
    assert [line.partition(": ")[0] for line in lines] == [
        "ports.a.listen",
        "ports.b.listen",
        "ports.b.listen",
        "ports.c.share",
    ]
    assert "max-per-source: 0 is not a whole number" in lines[0]
    assert "'20' is no rate: it needs a unit, as in 20/s" in lines[1]
    assert "write 2001:db8::/32 for the network" in lines[2]
    assert "max is not for share, since workers accept" in lines[3]
    assert "use listen, or leave max out" in lines[3]


# Runs a program as systemd does, with a listening Unix socket.
PASS = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind("passed")
sock.listen()
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_systemd(processes: Processes) -> None:
    """
    A Unix socket of systemd's has no limits.
    """
    port = "systemd:domain=UNIX:name=web:max-per-source=5"
    twistd = [command("twistd"), "-n", "--pidfile=", "portlisten"]
    process = processes.python("-c", PASS, *twistd, port, "./socket")
    assert process.wait() == 1
    # The lines of twistd's own log come before it, or after it.
    said = [line for line in process.output.splitlines() if "portlisten: " in line]
    assert said == [
        f"portlisten: cannot listen on {port}: the inherited descriptor is a Unix"
        " socket, whose clients have no address: leave out max-per-source"
    ]


def isServed(port: int) -> bool:
    """
    Whether a client gets an answer.
    """
    return bool(ask(port, send=b"who\n"))


@asynchronous
async def test_reload(run: Run) -> None:
    """
    A reload that changes limits refuses no client, and its limits count the connections
    from before it.  They heal.
    """
    await run.begin(run.table("web"))
    held = [await deferToThread(connect, run.port) for _ in range(3)]
    port = run.address(run.port, ":max-per-source=6").strip('"')
    run.write(run.table("web"), ports=f'[ports.http]\nlisten = "{port}"')
    plan = await run.command("check", "--against-running", str(run.file))
    assert plan.output.splitlines() == [
        f"port http={port}: max-per-source none -> 6",
        f"port http={port}: fair no -> yes",
        "the listener is started anew",
    ], plan
    with Crowd(run.port, 1, pause=0.005, send=lambda: b"who\n") as crowd:
        done = await run.command("reload", str(run.file))
        assert done.code == 0, done.errors + run.process.output
        await sleep(0.5)
    assert crowd.answers
    assert not {None, b""} & crowd.answers.keys(), crowd.answers
    more = [await deferToThread(connect, run.port) for _ in range(3)]
    assert not await deferToThread(isServed, run.port)
    for each in [*held, *more]:
        each.close()
    for _ in range(100):
        if await deferToThread(isServed, run.port):
            break
        await sleep(0.1)
    assert await deferToThread(isServed, run.port)
    await run.stop()
    assert "Traceback" not in run.process.output, run.process.output
