"""
Clients that count: C{python -m tests.machines.client URL AT-ONCE OPTION…}.

Each asks, and asks again when it has its answer, until the standard input ends.  Then
all of them finish.  The options: C{keep} keeps the connections, C{once} asks once for
each client, C{patience=SECONDS} is how long an answer may take, and C{from=ADDRESS}
is where they connect from.

The standard output is a line of JSON for each request, with the fields of
L{tests.machines.load.Asked}.
"""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
import sys
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

#: How long an answer may take, in seconds.
PATIENCE = 30.0

#: The pauses after an answer, and after anything else, in seconds.
PAUSE_SECONDS = 0.01
FAILED_SECONDS = 0.05

#: What went wrong before there was a connection.
CONNECTING = {errno.ECONNREFUSED: "refused", errno.EHOSTUNREACH: "unreachable"}


class Client:
    """
    One client.

    @param url: of what it asks for.
    @param keep: whether it keeps its connection.
    @param patience: how long an answer may take, in seconds.
    @param source: the address that it connects from; empty for any.
    """

    def __init__(self, url: str, keep: bool, patience: float, source: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context()
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        self._port = parts.port or (443 if self._tls else 80)
        self._request = (
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        ).encode()
        self._keep = keep
        self._patience = patience
        self._source = (source, 0) if source else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> dict[str, Any]:
        """
        Ask once.

        @return: what was seen.
        """
        began = time.monotonic()
        seen: dict[str, Any] = {"kept": self._streams is not None}
        try:
            seen |= await asyncio.wait_for(self._ask(), self._patience)
        except (TimeoutError, asyncio.TimeoutError):
            seen["what"] = "late"
        except (OSError, EOFError, ValueError) as error:
            number = getattr(error, "errno", None)
            connecting = self._streams is None and CONNECTING.get(number or 0)
            seen |= {"what": connecting or "cut", "why": repr(error)}
        if seen["what"] != "ok":
            self.close()
        return {**seen, "began": began, "ended": time.monotonic()}

    async def _ask(self) -> dict[str, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, local_addr=self._source
            )
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split()[0])
        body = await reader.readexactly(length)
        if not self._keep or "connection: close" in head:
            self.close()
        if " 200 " not in head.partition("\r\n")[0]:
            return {"what": "wrong", "why": head}
        return {"what": "ok", **json.loads(body)}

    def close(self) -> None:
        """
        Close its connection.
        """
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
        self._streams = None


async def main(url: str, atOnce: str, *options: str) -> None:
    """
    Run the clients of the command line.
    """
    values = dict(each.partition("=")[::2] for each in options)
    patience = float(values.get("patience", PATIENCE))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)

    async def repeat() -> None:
        client = Client(url, "keep" in values, patience, values.get("from", ""))
        while not ended.is_set():
            seen = await client.ask()
            print(json.dumps(seen), flush=True)
            if "once" in values:
                break
            good = seen["what"] == "ok"
            await asyncio.sleep(PAUSE_SECONDS if good else FAILED_SECONDS)
        client.close()

    await asyncio.gather(*(repeat() for _ in range(int(atOnce))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
