"""
C{portlisten each} with real programs: what they get, how they end, and how this ends.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.each import (
    PORT,
    ask,
    childrenOf,
    connect,
    readToEnd,
    runs,
    script,
    startEach,
    startPair,
    until,
)
from tests.support.processes import Processes
from tests.support.programs import command

#: Shows all that a program gets, on the connection.
SHOW = f"""#!{sys.executable}
import os, signal, sys
out = sys.stdout
for name in sorted(os.listdir("/proc/self/fd"), key=int):
    try:
        print("fd", name, os.readlink("/proc/self/fd/" + name))
    except OSError:
        pass  # the listing itself
for name in range(3):
    print("blocking", name, os.get_blocking(name))
for line in open("/proc/self/status"):
    if line.startswith(("SigBlk", "SigIgn")):
        print(line.replace(":", ""), end="")
print("pid", os.getpid(), os.getsid(0), os.getpgid(0), os.getppid())
print("umask", oct(os.umask(0)), os.getcwd())
for name, value in sorted(os.environ.items()):
    print("env", name, value)
out.flush()
sys.stderr.write("a complaint\\n")
"""

#: Shows the descriptor of --listen-fds, on itself.
SHOW_LISTEN = f"""#!{sys.executable}
import os, socket
client = socket.socket(fileno=3)
lines = [
    f"{{name}} {{os.environ.get(name)}}"
    for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "TCPREMOTEIP")
]
lines.append(f"pid {{os.getpid()}}")
lines.append(f"stdin {{os.readlink('/proc/self/fd/0')}}")
lines.append(f"descriptors {{sorted(map(int, os.listdir('/proc/self/fd')))}}")
client.sendall("\\n".join(lines).encode())
"""


def shown(answer: bytes, kind: str) -> dict[str, str]:
    """
    Find the lines of one kind in what a program shows.
    """
    found = re.findall(rf"^{kind} (\S+) ?(.*)$", answer.decode(), re.MULTILINE)
    return dict(found)


def test_whatItGets(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The program gets the connection, blocking, as 0 and 1, and no other descriptor but
    standard error, even if this process was started with others.  Signals are as this
    process found them, its session is its own, and its environment tells of its
    connection and of no other.
    """
    for name in ("TCPREMOTEHOST", "TCPREMOTEINFO", "SSLREMOTEDN", "UNIXLOCALPATH"):
        monkeypatch.setenv(name, "another's")
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("KEPT", "kept")
    program = script(processes, "show", SHOW)
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    each = processes.start(
        "sh",
        "-c",
        'umask 027; exec 7</dev/null 9>/dev/null "$0" each ./socket "$1"',
        command("portlisten"),
        str(program),
    )
    listener.says("joined")
    with closing(connect(port, "127.0.0.9")) as client:
        own = client.getsockname()
        answer = readToEnd(client)
    fds = shown(answer, "fd")
    assert set(fds) <= {"0", "1", "2", "3"}, fds  # 3 lists the others
    assert fds["0"] == fds["1"]
    assert fds["0"].startswith("socket:")
    assert fds["2"] == str(each.log)
    assert fds.get("3", "/proc/").startswith("/proc/")
    assert shown(answer, "blocking") == {"0": "True", "1": "True", "2": "True"}
    assert b"SigBlk\t0000000000000000" in answer
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25); nothing else is ignored.
    ignored = int(re.search(rb"SigIgn\t(\w+)", answer)[1], 16)  # type: ignore[index]
    assert ignored & ~(1 << 12 | 1 << 24) == 0
    [(pid, others)] = shown(answer, "pid").items()
    assert others == f"{pid} {pid} {each.pid}"
    assert shown(answer, "umask") == {"0o27": str(processes.folder)}
    environment = shown(answer, "env")
    told = {
        name: value
        for name, value in environment.items()
        if re.match("PROTO|TCP|SSLREMOTE|UNIX|REMOTE_|LISTEN_", name)
    }
    assert told == {
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(port),
        "TCPREMOTEIP": own[0],
        "TCPREMOTEPORT": str(own[1]),
        "REMOTE_ADDR": "127.0.0.9",
        "REMOTE_PORT": str(own[1]),
    }
    assert environment["KEPT"] == "kept"
    each.says("a complaint")
    assert each.stop() == 0


def test_signalsOfPrograms(processes: Processes) -> None:
    """
    A program finds SIGPIPE and SIGXFSZ as a shell leaves them.
    """
    _, _, port = startPair(processes, "./socket", "grep", "SigIgn", "/proc/self/status")
    assert int(ask(port).split()[1], 16) == 0


def test_ignoredBefore(processes: Processes) -> None:
    """
    A signal that this process was started with ignored, as by nohup(1), stays ignored
    in it and in programs.
    """
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    own = [command("portlisten"), "each", "./socket", "grep", "SigIgn"]
    each = processes.start("nohup", *own, "/proc/self/status")
    listener.says("joined")
    each.signal(signal.SIGHUP)
    assert int(ask(port).split()[1], 16) == 1 << signal.SIGHUP - 1
    assert "received SIGHUP" not in each.output


def test_listenFds(processes: Processes) -> None:
    """
    With --listen-fds, the connection is descriptor 3, and LISTEN_PID is the program's.
    """
    program = script(processes, "show", SHOW_LISTEN)
    _, each, port = startPair(processes, "--listen-fds", "./socket", str(program))
    for _ in range(2):
        lines = dict(
            line.split(" ", 1)
            for line in ask(port, source="127.0.0.5").decode().splitlines()
        )
        assert lines["LISTEN_FDS"] == "1"
        assert lines["LISTEN_FDNAMES"] == "connection"
        assert lines["LISTEN_PID"] == lines["pid"] != str(each.pid)
        assert lines["TCPREMOTEIP"] == "127.0.0.5"
        assert lines["stdin"] == "/dev/null"
        assert lines["descriptors"] == "[0, 1, 2, 3, 4]"  # 4 lists the others


def test_standardError(processes: Processes) -> None:
    """
    With --stderr=connection, the client gets standard error as well.
    """
    own = ["--stderr", "connection", "./socket", "sh", "-c", "echo one; echo two >&2"]
    _, each, port = startPair(processes, *own)
    assert ask(port) == b"one\ntwo\n"
    assert "two" not in each.output


def sendAll(client: socket.socket, data: bytes) -> None:
    """
    Send bytes, and the end.
    """
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_echo(processes: Processes) -> None:
    """
    A program that reads and writes has all of the connection, in both directions.
    """
    _, _, port = startPair(processes, "./socket", "--", "cat")
    data = os.urandom(1 << 20)
    with closing(connect(port)) as client:
        sender = threading.Thread(target=sendAll, args=(client, data))
        sender.start()
        assert readToEnd(client) == data
        sender.join()


def test_ipv6AndUnix(processes: Processes) -> None:
    """
    The environment tells of IPv6 and of Unix sockets.
    """
    listener = processes.twistd(
        "portlisten",
        r"--listen=tcp6:0:interface=\:\:1",
        "--listen=unix:./port",
        "./socket",
    )
    port = int(listener.says(r"\[::1\]:(\d+)")[1])
    startEach(processes, "./socket", "env")
    listener.says("joined")
    with socket.create_connection(("::1", port), 10) as client:
        own = client.getsockname()[1]
        lines = readToEnd(client).decode().splitlines()
    six = {"PROTO=TCP6", "TCP6REMOTEIP=::1", f"TCPREMOTEPORT={own}", "REMOTE_ADDR=::1"}
    assert six <= set(lines)
    with socket.socket(socket.AF_UNIX) as local:
        local.settimeout(10)
        local.connect(str(processes.folder / "port"))
        lines = readToEnd(local).decode().splitlines()
    [path] = [line for line in lines if line.startswith("UNIXLOCALPATH=")]
    assert path.endswith("/port")
    assert {f"UNIXREMOTEPID={os.getpid()}", "PROTO=UNIX"} <= set(lines)


def test_user(processes: Processes, root: None) -> None:
    """
    With --user, neither this process nor its programs have privilege, and the
    program's environment is the user's.
    """
    listener = processes.twistd("portlisten", "--mode=0666", PORT, "./socket")
    port = listener.port()
    each = startEach(
        processes,
        "--user",
        "nobody",
        "./socket",
        "sh",
        "-c",
        "id -u; id -G; echo $USER",
    )
    listener.says(r"\(pid \d+, uid 65534\) joined")
    assert ask(port) == b"65534\n65534\nnobody\n"
    status = Path(f"/proc/{each.pid}/status").read_text()
    assert re.search(r"^Uid:\s+65534\s+65534\s+65534", status, re.MULTILINE)


def test_userWithoutRoot(processes: Processes, root: None) -> None:
    """
    Only root can become another user.
    """
    own = [command("portlisten"), "each", "--user", "root", "./socket", "cat"]
    each = processes.start(*own, user="nobody")
    each.says("portlisten each: becoming user 0 needs root")
    until(lambda: not each.running)
    assert each.stop() == 1
    assert len(each.output.splitlines()) == 1


def test_codes(processes: Processes) -> None:
    """
    The log tells how programs failed, and with --verbose when they began and ended.
    """
    own = ["--verbose", "./socket", "sh", "-c", 'read x; eval "$x"']
    _, each, port = startPair(processes, *own)
    for what, how in (
        (b"exit 3\n", "ended with code 3"),
        (b"kill -9 $$\n", "was killed by SIGKILL"),
        (b"exit 0\n", "ended with code 0"),
    ):
        with closing(connect(port)) as client:
            client.sendall(what)
            assert readToEnd(client) == b""
            peer = f"127.0.0.1:{client.getsockname()[1]}"
        found = each.says(rf"process (\d+) \({peer}\) {how} after 0\.\d s")
        assert f"connection of {peer} is process {found[1]}\n" in each.output


def test_noTwisted(processes: Processes) -> None:
    """
    While it runs, it has loaded no reactor and no transports of Twisted.
    """
    code = (
        "import sys\n"
        "from portlisten._each import service\n"
        "print([name for name in sys.modules if name.startswith('twisted')])"
    )
    assert processes.python("-c", code).says(r"\[(.*)\]")[1] == ""


def test_limit(processes: Processes) -> None:
    """
    500 clients come at once.  There are never more than 20 processes, each client is
    answered, nobody is left over, and descriptors are as before.
    """
    count = processes.folder / "count"
    count.mkdir()
    program = script(
        processes,
        "counted",
        f"#!/bin/sh\ncd {count} && mkdir $$ && ls | wc -l; sleep 0.12; rmdir $$\n",
    )
    own = ["--limit", "20", "./socket", str(program)]
    listener, each, port = startPair(processes, *own)
    ask(port)
    until(lambda: not list(childrenOf(each.pid)))
    before = each.descriptors(), listener.descriptors()
    most = 0
    clients = [connect(port) for _ in range(500)]
    waiting = {client.fileno(): (client, b"") for client in clients}
    answers = []
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLIN)
    while waiting:
        events = poll.poll(30_000)
        assert events, f"{len(waiting)} clients have no answer"
        for number, _ in events:
            client, data = waiting[number]
            more = client.recv(100)
            waiting[number] = client, data + more
            if not more:
                poll.unregister(number)
                answers.append(waiting.pop(number)[1])
                client.close()
        most = max(most, len([1 for _, state in childrenOf(each.pid) if state != "Z"]))
    numbers = [int(answer) for answer in answers]
    assert len(numbers) == 500
    # On a busy machine, few have begun when the first ones end.
    assert 5 <= max(numbers) <= 20
    assert most <= 20
    until(lambda: not list(childrenOf(each.pid)))
    until(lambda: (each.descriptors(), listener.descriptors()) == before)
    listener.signal(signal.SIGUSR1)
    counters = "accepted 501, offered 501, claimed 501, refused 0, redispatched 0"
    listener.says(
        f"{counters}, revoked 0, finished 501, lostInService 0, unusable 0, timedOut 0"
    )


def test_limitOnSharedPorts(processes: Processes) -> None:
    """
    The limit holds if connections come by a shared port and by one that hands off.
    """
    listener = processes.twistd(
        "portlisten", "--share", f"a={PORT}", "--listen", f"b={PORT}", "./socket"
    )
    listener.says("workers connect")
    ports = [int(each) for each in re.findall(r"127\.0\.0\.1:(\d+)", listener.output)]
    each = startEach(processes, "--limit=3", "./socket", "sh", "-c", "echo up; read x")
    listener.says("joined")
    clients = [connect(port) for port in ports * 6]
    until(lambda: len(list(childrenOf(each.pid))) == 3)
    served = []
    while clients:
        time.sleep(0.02)
        assert len(list(childrenOf(each.pid))) <= 3
        ready, _, _ = select.select(clients, [], [], 10)
        assert ready
        for client in ready:
            assert client.recv(100) == b"up\n"
            client.close()
            clients.remove(client)
            served.append(client)
    assert len(served) == 12


def test_kill(processes: Processes) -> None:
    """
    It is killed in a storm of clients.  A program is started exactly once for each
    client, and each client gets its answer: the ones whose program had begun from that,
    and the others from the next worker's.
    """
    rounds = int(os.environ.get("PORTLISTEN_ROUNDS", "6"))
    starts = processes.folder / "starts"
    text = f"echo $$ >>{starts}; sleep 0.03; echo answer; read x; echo end"
    listener = processes.twistd("portlisten", PORT, "./socket")
    port = listener.port()
    own = ["--limit=40", "./socket", "sh", "-c", text]
    each = startEach(processes, *own)
    listener.says("worker 1 .*joined")
    for number in range(rounds):
        clients = [connect(port) for _ in range(60)]
        time.sleep(0.01 + 0.017 * number)
        each.kill()
        each = startEach(processes, *own)
        for client in clients:
            assert client.recv(100) == b"answer\n"
            client.sendall(b"\n")
        for client in clients:
            with closing(client):
                assert readToEnd(client) == b"end\n"
    assert len(starts.read_text().splitlines()) == 60 * rounds
    listener.signal(signal.SIGUSR1)
    counted = listener.says(
        r"redispatched (\d+), revoked 0, finished \d+, lostInService 0, unusable 0,"
        " timedOut 0"
    )
    assert int(counted[1]) > 0


def test_childrenSurvive(processes: Processes) -> None:
    """
    If it is killed, a program goes on with its client.
    """
    _, each, port = startPair(processes, "./socket", "cat")
    with closing(connect(port)) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        each.kill()
        client.sendall(b"after")
        assert client.recv(100) == b"after"


def test_stop(processes: Processes) -> None:
    """
    SIGTERM lets programs finish, and takes no more connections.
    """
    _, each, port = startPair(processes, "./socket", "cat")
    with closing(connect(port)) as client, closing(connect(port)) as other:
        for one in (client, other):
            one.sendall(b"before")
            assert one.recv(100) == b"before"
        each.signal(signal.SIGTERM)
        each.says("stopping, with 2 processes")
        with closing(connect(port)) as late:
            client.sendall(b"after")
            assert client.recv(100) == b"after"
            client.close()
            other.close()
            until(lambda: not each.running)
            next_ = startEach(processes, "./socket", "echo", "from the next")
            assert readToEnd(late) == b"from the next\n"
            assert next_.stop() == 0
    assert each.stop() == 0
    assert "Traceback" not in each.output


def test_grace(processes: Processes) -> None:
    """
    After the grace, programs get SIGTERM, with all of their group.
    """
    text = "sleep 99 <&- >&- & echo $$ $!; wait"
    own = ["--grace=0.2", "./socket", "sh", "-c", text]
    _, each, port = startPair(processes, *own)
    with closing(connect(port)) as client:
        pids = [int(word) for word in client.recv(100).split()]
        each.signal(signal.SIGTERM)
        each.says("1 processes have not ended, and get SIGTERM")
        until(lambda: not each.running)
        assert readToEnd(client) == b""
    until(lambda: not any(map(runs, pids)))
    assert each.stop() == 0


def test_hurry(processes: Processes) -> None:
    """
    A second signal ends the grace, and a third one the patience after that.
    """
    own = [
        "--grace=60",
        "./socket",
        "sh",
        "-c",
        "trap '' TERM; echo up; sleep 50 <&- >&-",
    ]
    _, each, port = startPair(processes, *own)
    with closing(connect(port)) as client:
        assert client.recv(100) == b"up\n"
        each.signal(signal.SIGINT)
        each.says("received SIGINT, stopping, with 1 processes")
        each.signal(signal.SIGTERM)
        each.says("get SIGTERM")
        each.signal(signal.SIGTERM)
        each.says("get SIGKILL")
        assert readToEnd(client) == b""
    assert each.stop() == 0


def test_daemonizes(processes: Processes) -> None:
    """
    If a program leaves a daemon behind, the daemon goes on with the client.  It counts
    no more, and a stop does not wait for it.
    """
    own = ["--limit=1", "./socket", "sh", "-c", "exec 3<&0; setsid cat <&3 & echo"]
    _, each, port = startPair(processes, *own)
    with closing(connect(port)) as client, closing(connect(port)) as other:
        for one in (client, other):
            one.recv(100)
            one.sendall(b"text")
            assert one.recv(100) == b"text"
        assert not list(childrenOf(each.pid))
        assert each.stop() == 0
        client.sendall(b"more")
        assert client.recv(100) == b"more"


def test_leave(processes: Processes) -> None:
    """
    'portlisten drain' lets programs finish, and this goes on to run.
    """
    own = ["--label=one", "./socket", "cat"]
    _, each, port = startPair(processes, *own)
    with closing(connect(port)) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        drain = processes.start(command("portlisten"), "drain", "./socket", "one")
        drain.says("1 connection left")
        client.sendall(b"after")
        assert client.recv(100) == b"after"
        assert drain.running
    drain.says("is drained")
    with closing(connect(port)) as client:
        undrain = processes.start(command("portlisten"), "undrain", "./socket", "one")
        undrain.says("serves")
        client.sendall(b"again")
        assert client.recv(100) == b"again"
    assert each.running


def test_replaced(processes: Processes) -> None:
    """
    While a program is replaced, clients wait, and are answered then.  The log says so
    once.
    """
    program = script(processes, "program", "#!/bin/sh\necho old\n")
    _, each, port = startPair(processes, "./socket", str(program))
    assert ask(port) == b"old\n"
    program.unlink()
    clients = [connect(port) for _ in range(3)]
    each.says("cannot be started, and is tried again every 0.5 s, .*No such file")
    time.sleep(1.2)
    script(processes, "program", "#!/bin/sh\necho new\n")
    for client in clients:
        with closing(client):
            assert readToEnd(client) == b"new\n"
    assert each.output.count("cannot be started") == 1


def test_busy(processes: Processes) -> None:
    """
    A program that is open for writing cannot be executed, and is tried again.
    """
    program = processes.folder / "program"
    shutil.copy(shutil.which("echo") or "/bin/echo", program)
    _, each, port = startPair(processes, "./socket", str(program), "answer")
    with program.open("ab"), closing(connect(port)) as client:
        each.says("Text file busy")
    client = connect(port)
    assert readToEnd(client) == b"answer\n"
    client.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_givenBack(processes: Processes, how: signal.Signals) -> None:
    """
    If no process can be started for connections, and this ends, the next worker has
    them, even if they had waited for longer than the listener keeps other copies.
    """
    program = script(processes, "program", "#!/bin/sh\necho old\n")
    listener, each, port = startPair(processes, "./socket", str(program))
    program.unlink()
    clients = [connect(port) for _ in range(3)]
    each.says("cannot be started")
    time.sleep(1.5)
    each.signal(how)
    until(lambda: not each.running)
    listener.says("3 connections to hand off again")
    startEach(processes, "./socket", "echo", "next")
    for client in clients:
        with closing(client):
            assert readToEnd(client) == b"next\n"


@pytest.mark.parametrize("killed", [True, False])
def test_revoked(processes: Processes, killed: bool) -> None:
    """
    If this was revoked, it can tell the listener nothing more.  If it is killed soon
    after, each client has one program all the same.  If it goes on, it serves the
    client that it had, even if it had something to report.
    """
    started = processes.folder / "started"
    text = f"#!/bin/sh\necho >> {started}\nsleep 0.5\nread line\necho $line\n"
    program = script(processes, "program", text)
    hidden = processes.folder / "hidden"
    timeout = ("--claim-timeout", "0.3")
    listener = processes.twistd("portlisten", *timeout, PORT, "./socket")
    each = startEach(processes, "./socket", str(program))
    listener.says("joined")
    program.rename(hidden)
    with closing(connect(listener.port())) as one:
        each.says("cannot be started")
        if killed:
            time.sleep(1)  # until it has reported the client
        each.signal(signal.SIGSTOP)
        with closing(connect(listener.port())) as two:
            listener.says("left")
            hidden.rename(program)
            each.signal(signal.SIGCONT)
            if killed:
                # The time in which it would start the program if it did not wait.
                time.sleep(0.7)
                each.kill()
                listener.says("the process of worker 1 .* has ended")
                startEach(processes, "./socket", str(program))
            for client, line in ((one, b"one\n"), (two, b"two\n")):
                client.sendall(line)
                assert readToEnd(client) == line
    assert started.read_text() == "\n\n"


def test_listenerStops(processes: Processes) -> None:
    """
    If the listener is killed, programs go on, and this joins the next listener.
    """
    listener, each, port = startPair(processes, "./socket", "cat")
    with closing(connect(port)) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        listener.kill()
        each.says("lost the listener")
        again = f"tcp:{port}:interface=127.0.0.1"
        second = processes.twistd("portlisten", again, "./socket")
        second.says("joined")
        client.sendall(b"after")
        assert client.recv(100) == b"after"
        assert ask(port, b"new") == b"new"


def test_older(processes: Processes) -> None:
    """
    It does not join a listener that is older, and says so.
    """
    from tests.support.releases import unpack

    setting = unpack(processes.folder)
    own = [command("twistd"), "-n", "--pidfile=", "portlisten", PORT, "./socket"]
    listener = processes.start("env", setting, *own)
    listener.says("listening")
    each = startEach(processes, "./socket", "cat")
    each.says("the listener cannot serve this worker: it is older than this worker")
    assert each.stop() == 0


def test_exitCodes(processes: Processes) -> None:
    """
    If it cannot start, it says so in one line, with the exit code of a shell.
    """
    folder = processes.folder
    (folder / "plain").write_text("text")
    for own, code, why in (
        (
            ["./socket", "no-such-program"],
            127,
            "the program 'no-such-program' does not",
        ),
        (["./socket", "./plain"], 126, "./plain is not executable"),
        (["./socket"], 1, "expected PATH and PROGRAM, got 1 arguments"),
        (["./socket", "--limit=3", "cat"], 1, "options come before the arguments"),
        (["--listen-fds", "--stderr=connection", "s", "cat"], 1, "means nothing"),
        (["--limit=0", "./socket", "cat"], 1, "--limit: '0' is not a whole number"),
        (["x" * 200, "cat"], 1, "the path is 200 bytes long"),
    ):
        each = startEach(processes, *own)
        each.says(why)
        until(lambda each=each: not each.running)  # type: ignore[misc]
        assert each.stop() == code
        assert len(each.output.splitlines()) == 1
