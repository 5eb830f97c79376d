"""
The commands in the guides of single servers do what the guides say.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.asynchronous import asynchronous
from tests.support.ports import freePort
from tests.support.programs import needs
from tests.support.spawned import Start

GUIDES = Path(__file__).parents[2] / "docs" / "guides"

#: The packages that the commands of each guide need.
NEEDED = {
    "aiohttp": ["aiohttp"],
    "daphne": ["daphne"],
    "django": ["django", "uvicorn", "gunicorn"],
    "fastapi": ["fastapi", "uvicorn"],
    "gunicorn": ["gunicorn"],
    "hypercorn": ["hypercorn", "h2"],
    "quart": ["quart", "hypercorn"],
    "starlette": ["starlette", "uvicorn"],
    "uvicorn": ["uvicorn"],
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
    for package in NEEDED[name]:
        needs(package, package)
    page = (GUIDES / f"{name}.md").read_text()
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


def test_eachGuide() -> None:
    """
    Each guide is tested.
    """
    assert sorted(each.stem for each in GUIDES.glob("*.md")) == sorted(NEEDED)
