"""
C{portlisten each} with the servers of SSH, which run as root and change users
themselves.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.each import childrenOf, needsProgram, startPair, until
from tests.support.ports import freePort
from tests.support.processes import Processes

#: The client's address.
CLIENT = "127.0.0.23"

CONFIGURATION = """
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
"""


@pytest.fixture
def processes(root: None) -> Iterator[Processes]:
    """
    Starts processes, and ends them.
    """
    with Processes() as started:
        yield started


def makeKeys(folder: Path) -> None:
    """
    Make keys for a host and for a user.
    """
    keygen = needsProgram("/usr/bin/ssh-keygen", "openssh-client")
    for name in ("host", "user"):
        own = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(own, check=True)


def login(folder: Path, port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """
    Log in as root by the key, and run a command.
    """
    ssh = needsProgram("/usr/bin/ssh", "openssh-client")
    options = {
        "Port": port,
        "BindAddress": CLIENT,
        "IdentityFile": folder / "user",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "UserKnownHostsFile": folder / "known",
        "StrictHostKeyChecking": "accept-new",
        "ConnectTimeout": 20,
    }
    own = [f"-o{name}={value}" for name, value in options.items()]
    return subprocess.run(
        [ssh, "-F", "none", *own, "root@127.0.0.1", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_openssh(processes: Processes) -> None:
    """
    A user logs in by a key, through a port below 1024, and runs a command.  The server
    and the session know the client's address.
    """
    sshd = needsProgram("/usr/sbin/sshd", "openssh-server")
    folder = processes.folder
    makeKeys(folder)
    os.makedirs("/run/sshd", 0o755, exist_ok=True)  # sshd changes to it
    (folder / "config").write_text(CONFIGURATION.format(folder=folder))
    port = freePort(600, 1000)
    _, each, _ = startPair(
        processes,
        "./socket",
        *(sshd, "-i", "-e", "-f", str(folder / "config")),
        port=f"tcp:{port}:interface=127.0.0.1",
    )
    for _ in range(2):
        done = login(folder, port, "echo in $SSH_CONNECTION; id -un; exit 7")
        assert done.returncode == 7, done.stderr + each.output
        where, who = done.stdout.splitlines()
        assert re.fullmatch(rf"in {CLIENT} \d+ 127\.0\.0\.1 {port}", where)
        assert who == "root"
    accepted = rf"Accepted publickey for root from {CLIENT} port \d+ ssh2"
    each.says(rf"{accepted}[\s\S]*{accepted}")
    until(lambda: not list(childrenOf(each.pid)))
    assert each.stop() == 0


def test_dropbear(processes: Processes) -> None:
    """
    The same with dropbear.
    """
    dropbear = needsProgram("/usr/sbin/dropbear", "dropbear-bin")
    dropbearkey = needsProgram("/usr/bin/dropbearkey", "dropbear-bin")
    folder = processes.folder
    makeKeys(folder)
    host = str(folder / "dropbear")
    own = [dropbearkey, "-t", "ed25519", "-f", host]
    subprocess.run(own, check=True, capture_output=True)
    # It looks for keys in the home of the user alone.
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "authorized_keys").write_text((folder / "user.pub").read_text())
    passwd = folder / "passwd"
    passwd.write_text(f"root:x:0:0::{home}:/bin/sh\n")
    port = freePort(600, 1000)
    _, each, _ = startPair(
        processes,
        "./socket",
        *("unshare", "--mount", "sh", "-c"),
        f'mount --bind {passwd} /etc/passwd && exec "$0" "$@"',
        *(dropbear, "-i", "-r", host),
        port=f"tcp:{port}:interface=127.0.0.1",
    )
    done = login(folder, port, "echo in $SSH_CONNECTION; id -un; exit 7")
    assert done.returncode == 7, done.stderr + each.output
    where, who = done.stdout.splitlines()
    assert re.fullmatch(rf"in {CLIENT} \d+ 127\.0\.0\.1 {port}", where)
    assert who == "root"
    until(lambda: not list(childrenOf(each.pid)))
    assert each.stop() == 0
