"""
Clients that ask all the time, in a process of their own:
C{python -m tests.support.steady_clients FILE COUNT TARGET ...}.

A TARGET is C{close=tcp:PORT}, C{keep=tcp:PORT}, C{close=unix:PATH}, C{keep=unix:PATH}
or C{ask=udp:PORT}.  Each target has COUNT clients.  The process writes how many answers
each target has given, as JSON in a line, many times a second.  When its standard input
ends, the clients end what they are at, and FILE gets what went wrong.

A client that keeps its connection sends many requests on it, one after the other.  If
the server closes it, that is an error.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

#: How many requests a kept connection has.
REQUESTS = 25

#: How long an answer may take, in seconds.
PATIENCE = 20.0

#: How often to say how many answers came, in seconds.
SAY_SECONDS = 0.05


class Wrong(Exception):
    """
    An answer that is none.
    """


class Datagrams(asyncio.DatagramProtocol):
    """
    The end of a client that sends datagrams.
    """

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait(data)


class Clients:
    """
    The clients of all targets.

    @ivar answers: how many answers were right, by the target.
    @ivar wrong: what went wrong, and how often.
    @ivar servers: the processes that have answered.
    """

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.servers: set[int] = set()
        self.words: list[str] = []
        self._numbers = itertools.count(1)
        self._stopped = False

    def stop(self) -> None:
        """
        Let no client ask again.
        """
        self._stopped = True

    async def run(self, target: str) -> None:
        """
        Be one client of a target.
        """
        how, _, address = target.partition("=")
        ask = {"close": self._close, "keep": self._keep, "ask": self._datagram}[how]
        while not self._stopped:
            try:
                await ask(target, address)
            except (OSError, Wrong, asyncio.TimeoutError) as error:
                self.wrong[f"{target}: {error!r}"] += 1
                await asyncio.sleep(0.01)

    def _word(self) -> str:
        return f"w{next(self._numbers)}"

    def _check(self, target: str, word: str, body: bytes, server: int = 0) -> int:
        """
        Count an answer.

        @param server: which process must have given it, if that is known.
        @return: the number of that process.
        """
        match = re.fullmatch(rf"{word} (\d+)\n", body.decode())
        if match is None:
            raise Wrong(f"{body[:200]!r} for {word}")
        if server not in (0, int(match[1])):
            raise Wrong("two processes serve one connection")
        self.servers.add(int(match[1]))
        self.answers[target] += 1
        self.words.append(word)
        return int(match[1])

    async def _open(
        self, address: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        kind, _, where = address.partition(":")
        if kind == "unix":
            return await asyncio.open_unix_connection(where)
        return await asyncio.open_connection("127.0.0.1", int(where))

    async def _close(self, target: str, address: str) -> None:
        word = self._word()
        reader, writer = await self._open(address)
        try:
            writer.write(_request(word, "close"))
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
        finally:
            await _end(writer)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"{answer[:200]!r} for a request")
        self._check(target, word, body)

    async def _keep(self, target: str, address: str) -> None:
        reader, writer = await self._open(address)
        server = 0
        try:
            for _ in range(REQUESTS):
                if self._stopped:
                    break
                word = self._word()
                writer.write(_request(word, "keep-alive"))
                body = await asyncio.wait_for(_response(reader), PATIENCE)
                server = self._check(target, word, body, server)
        finally:
            await _end(writer)

    async def _datagram(self, target: str, address: str) -> None:
        where = ("127.0.0.1", int(address.partition(":")[2]))
        loop = asyncio.get_running_loop()
        transport, end = await loop.create_datagram_endpoint(Datagrams, None, where)
        try:
            for _ in range(REQUESTS):
                if self._stopped:
                    break
                word = self._word()
                transport.sendto(word.encode())
                body = await asyncio.wait_for(end.received.get(), PATIENCE)
                self._check(target, word, body)
        finally:
            transport.close()


def _request(word: str, connection: str) -> bytes:
    return (
        f"GET /{word} HTTP/1.1\r\nHost: here\r\nConnection: {connection}\r\n\r\n"
    ).encode()


async def _response(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or not head.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"{head[:200]!r} for a request")
        return await reader.readexactly(int(length[1]))
    except asyncio.IncompleteReadError as error:
        raise Wrong(f"the connection ended after {error.partial[:50]!r}") from None


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def main(file: str, count: int, targets: list[str]) -> None:
    """
    Run all clients until standard input ends.
    """
    clients = Clients()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    tasks = [
        asyncio.create_task(clients.run(target))
        for target in targets
        for _ in range(count)
    ]
    while not ended.is_set():
        print(json.dumps({"answers": clients.answers}), flush=True)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), SAY_SECONDS)
    loop.remove_reader(0)
    clients.stop()
    await asyncio.gather(*tasks)
    found = {
        "answers": clients.answers,
        "wrong": clients.wrong,
        "servers": sorted(clients.servers),
        "words": clients.words,
    }
    Path(file).write_text(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
