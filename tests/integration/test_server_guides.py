"""
The commands in the guides of single servers do what the guides say.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.asynchronous import asynchronous
from tests.support.each import needsProgram
from tests.support.guide_files import (
    filesIn,
    inPrivateRun,
    needsCaddy,
    needsPrograms,
    sections,
    systemdRuns,
)
from tests.support.ports import freePort
from tests.support.programs import needs
from tests.support.spawned import Start

GUIDES = Path(__file__).parents[2] / "docs" / "guides"

#: The packages that the commands of each guide need.
NEEDED = {
    "aiohttp": ["aiohttp"],
    "as-port": [],
    "daphne": ["daphne"],
    "django": ["django", "uvicorn", "gunicorn"],
    "each": [],
    "fastapi": ["fastapi", "uvicorn"],
    "gunicorn": ["gunicorn"],
    "http-server": [],
    "hypercorn": ["hypercorn", "h2"],
    "quart": ["quart", "hypercorn"],
    "starlette": ["starlette", "uvicorn"],
    "uvicorn": ["uvicorn"],
    "waitress": ["waitress"],
}

#: The programs that the sections of the guide of programs in other languages need, with
#: Debian's packages.
PROGRAMS = {
    "nginx": {"nginx": "nginx-light"},
    "Caddy": {"caddy": "caddy"},
    "HAProxy": {"haproxy": "haproxy"},
    "lighttpd": {"lighttpd": "lighttpd"},
    "Node": {"node": "nodejs"},
    "granian": {},
    "unbound": {"unbound": "unbound", "dig": "bind9-dnsutils"},
    "Redis": {"redis-server": "redis-server", "redis-cli": "redis-tools"},
    "A program for each connection": {"rsync": "rsync"},
}

#: How the commands begin and end.  Whatever they start ends with them.
SCRIPT = """
set -euxo pipefail
export PATH={path}:$PATH HOME=$PWD
trap 'kill $(jobs -p) $(cat listener.pid) || true; wait' EXIT
{commands}
printf '\\nthe guide ends\\n'
"""


def blocks(page: str, language: str) -> list[str]:
    """
    Find the blocks of a language in a page.
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def programs(page: str) -> str:
    """
    Make commands that write the programs of a page that say what file they are.
    """
    commands = ""
    for program in blocks(page, "python"):
        name = re.match(r"# (\S+\.py)\n", program)
        if name is not None:
            commands += f"cat >{name[1]} <<'PYTHON'\n{program}PYTHON\n"
    return commands


def localized(text: str, folder: Path, http: int, https: int, more: int) -> str:
    """
    Change paths and ports of a guide to those of a test.
    """
    changes = {
        "/opt/portlisten/bin": str(Path(sys.executable).parent),
        "/run/portlisten": str(folder),
        "/etc/ssl": str(folder),
        "http=80": f"http=tcp:{http}",
        "https=443": f"https=tcp:{https}",
        "ssh=22": f"ssh=tcp:{https}",
        "ed25519 localhost": f"ed25519 -p {https} 127.0.0.1",
        "http=tcp:8080": f"http=tcp:{more}",
        "http://localhost:8080/": f"http://localhost:{more}/",
        "http://localhost/": f"http://localhost:{http}/",
        "https://localhost/": f"https://localhost:{https}/",
    }
    for old, new in changes.items():
        text = text.replace(old, new)
    text = re.sub(r"^pip install .*\n", "", text, flags=re.MULTILINE)
    if os.geteuid() != 0:
        text = text.replace("--uid nobody ", "").replace("--group daemon ", "")
    return text


def endAllIn(folder: Path) -> None:
    """
    End all processes that run in a folder: if the shell was killed, it ended none.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder:
                os.kill(int(process.name), signal.SIGKILL)


async def makeCertificate(start: Start) -> None:
    """
    Make a certificate and a key for localhost.
    """
    own = ["-x509", "-newkey", "ec", "-pkeyopt", "group:P-256", "-noenc", "-days", "2"]
    files = ["-keyout", "web.key", "-out", "web.pem", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost"]
    assert await start("openssl", "req", *own, *files, *more).ended() == 0


@pytest.mark.parametrize("name", NEEDED)
@asynchronous
async def test_guide(start: Start, folder: Path, name: str) -> None:
    """
    The commands of a guide, run one after the other, print what it says.
    """
    page = (GUIDES / f"{name}.md").read_text()
    for package in NEEDED[name]:
        needs(package, package)
    if "sshd" in page:
        if os.geteuid() != 0:
            pytest.skip("needs root, to log users in")
        needsProgram("/usr/sbin/sshd", "openssh-server")
    commands = blocks(page, "sh")
    if "portlisten --group" not in page:
        uvicorn = blocks((GUIDES / "uvicorn.md").read_text(), "sh")
        commands.insert(
            1, next(each for each in uvicorn if "portlisten --group" in each)
        )
    http, https = freePort(11000, 11500), freePort(11500, 12000)
    more = freePort(12000, 12500)
    commands.insert(1, programs(page))
    script = localized("\n".join(commands), folder, http, https, more)
    await makeCertificate(start)
    path = Path(sys.executable).parent
    process = start("bash", "-c", SCRIPT.format(path=path, commands=script))
    try:
        await process.says(r"\nthe guide ends\n", patience=120)
        assert await process.ended() == 0, process.output
    finally:
        endAllIn(folder)
    expected = blocks(page, "text")
    assert expected
    for each in expected:
        assert each.strip() in process.output, process.output
    asked = len(re.findall(r"^curl ", script, re.MULTILINE))
    assert process.output.count(expected[0].strip()) >= asked
    assert "Traceback" not in process.output


@pytest.mark.parametrize("name", PROGRAMS)
@asynchronous
async def test_programs(root: None, start: Start, folder: Path, name: str) -> None:
    """
    The commands of a section of the guide of programs in other languages, run after
    those of the listener, print what it says.
    """
    needsPrograms({**PROGRAMS[name], "setpriv": "util-linux"})
    if name == "granian":
        needs("granian", "granian")
    if name == "Caddy":
        needsCaddy()
    page = sections((GUIDES / "programs.md").read_text())
    ports = {"80": freePort(600, 700), "53": freePort(700, 800)}
    ports |= {"637": freePort(800, 900), "6380": freePort(11000, 11500)}
    ports["873"] = freePort(900, 1000)
    for file, text in filesIn(page[name]).items():
        (folder / file).write_text(renumbered(text, folder, ports))
    section = page["Start the listener"] + page[name]
    commands = renumbered("\n".join(blocks(section, "sh")), folder, ports)
    if name == "granian" and not daemonCanRun(sys.executable):
        commands = commands.replace("exec --user daemon", "exec")
    script = SCRIPT.format(path=Path(sys.executable).parent, commands=commands)
    # unbound looks whether systemd runs.
    own = [] if systemdRuns() else inPrivateRun(True)
    process = start(*own, "bash", "-c", script)
    try:
        await process.says(r"\nthe guide ends\n", patience=120)
        assert await process.ended() == 0, process.output
    finally:
        endAllIn(folder)
    expected = [
        each for each in blocks(page[name], "text") if not each.startswith("# ")
    ] or [f"hello from {name}"]
    for each in expected:
        assert each.strip() in process.output, process.output
    assert "Traceback" not in process.output


def daemonCanRun(program: str) -> bool:
    """
    Say whether C{daemon} can execute a program: not if it is in the home of root.
    """
    become = ["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"]
    return subprocess.run([*become, "test", "-x", program], check=False).returncode == 0


def renumbered(text: str, folder: Path, ports: dict[str, int]) -> str:
    """
    Change paths and ports of the guide of programs to those of a test.
    """
    for old, new in {
        "/opt/portlisten/bin": str(Path(sys.executable).parent),
        "/run/portlisten": str(folder),
        "/srv/www": str(folder / "www"),
        "/tmp/caddy": str(folder / "caddy"),
        "http://localhost/": f"http://localhost:{ports['80']}/",
    }.items():
        text = text.replace(old, new)
    text = re.sub(r"^pip install .*\n", "", text, flags=re.MULTILINE)

    def renumber(match: re.Match[str]) -> str:
        return f"{match[1]}{ports[match[2]]}"

    before = r"((?:tcp|udp|0\.0\.0\.0|127\.0\.0\.1):|-p |--port |@|port = )"
    return re.sub(before + r"(80|53|637|873|6380)\b", renumber, text)


def test_eachGuide() -> None:
    """
    Each guide is tested, and each section that has commands of the guide of programs.
    """
    guides = [*NEEDED, "programs"]
    assert sorted(each.stem for each in GUIDES.glob("*.md")) == sorted(guides)
    found = sections((GUIDES / "programs.md").read_text())
    runs = {name for name, section in found.items() if blocks(section, "sh")}
    assert runs == {*PROGRAMS, "Start the listener"}
