"""
C{portlisten-run.service} on the machine: its file, its start and its state.
"""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.machine import Machine, until

UNIT = "portlisten-run"
SOCKET = "portlisten-run.socket"
FILE = "/etc/portlisten/web.toml"
PROGRAM = "/opt/portlisten/bin/portlisten"

#: A page that takes a moment, so that requests are in service.
SLOW = """
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Slow(Resource):
    def render_GET(self, request):
        request.setHeader(b"content-length", b"6")
        gone = request.notifyFinish()
        call = reactor.callLater(0.3, self.finish, request)
        gone.addErrback(lambda _: call.active() and call.cancel())
        return NOT_DONE_YET

    def finish(self, request):
        request.write(b"hello\\n")
        request.finish()


resource = Slow()
"""

COMMAND = (
    '["twistd", "--nodaemon", "--pidfile=", "web", "--path", "/srv/www",'
    ' "--listen=portlisten:{path}:name=NAME"]'
)


def file(
    count: int = 2, listen: str = "80", also: str = "", command: str = COMMAND
) -> str:
    """
    Write a file of C{portlisten run}.
    """
    return f"""
path = "/run/portlisten/web.sock"
user = "portlisten"
group = "web"

[ports.http]
listen = {listen}

[workers.web]
command = {command.replace("NAME", "http")}
count = {count}
user = "web"
{also}
"""


#: The port, if systemd holds it.
SYSTEMD = '"systemd:domain=INET6:name=http"'

SECOND = f"""
[ports.second]
listen = [443, 8443]

[workers.second]
command = {COMMAND.replace("NAME", "second")}
user = "web"
"""


def prepare(machine: Machine) -> None:
    """
    Write what is served.
    """
    machine.write("/srv/www/index.html", "hello\n")
    machine.write("/srv/www/slow.rpy", SLOW)
    # It keeps the loop of its worker, which hears no SIGTERM then.
    machine.write("/srv/www/hang.rpy", "import time\n\ntime.sleep(1000)\n")


def status(machine: Machine) -> Any:
    """
    Ask the supervisor.
    """
    done = machine.run(PROGRAM, "status", "--json", FILE, check=False)
    assert done.returncode in (0, 1), done.stdout
    return json.loads(done.stdout)


def workers(found: Any) -> dict[str, int]:
    """
    The processes of the workers that are ready, by labels.
    """
    return {
        each["label"]: each["pid"]
        for group in found["supervisor"]["groups"]
        for each in group["processes"]
        if each["state"] == "ready"
    }


def processes(found: Any) -> set[int]:
    """
    All processes that the supervisor knows, and itself.
    """
    pids = {found["supervisor"]["pid"], found["listener"]["pid"]}
    return pids | {
        each["pid"]
        for group in found["supervisor"]["groups"]
        for each in group["processes"]
    }


def whole(machine: Machine, count: int = 2, monitors: int = 0) -> Any:
    """
    Wait until all is well, and check that no other process is in the unit.

    @param count: how many workers are to be ready.
    @param monitors: how many processes the status does not have.
    @return: the status.
    """

    def look() -> Any:
        done = machine.run(PROGRAM, "status", "--json", FILE, check=False)
        if done.returncode:
            return None
        found = json.loads(done.stdout)
        return found if len(workers(found)) == count else None

    found = until(look, f"all is well: {machine.journal()}")
    there = machine.processes(UNIT)
    known = processes(found)
    text = f"in the unit: {there}, known: {known}"
    assert known <= there, text
    assert len(there - known) == monitors, text
    return found


def fresh(machine: Machine, text: str = "", monitors: int = 0) -> Any:
    """
    Write the file, and start the unit, unless it runs with this file.

    @param monitors: how many processes the status does not have.
    @return: the status.
    """
    text = text or file()
    place = machine.place(FILE)
    same = place.exists() and place.read_text() == text
    if same and machine.show(UNIT, "ActiveState") == "active":
        return whole(machine, monitors=monitors)
    machine.write(FILE, text)
    machine.run("systemctl", "stop", UNIT, check=False)
    machine.run("systemctl", "reset-failed", UNIT, check=False)
    machine.systemctl("start", UNIT)
    return whole(machine, monitors=monitors)
