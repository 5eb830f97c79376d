"""
HTTP and UDP servers that are workers, and note what they answered:
C{python -m tests.support.noting_server KIND PATH FILE NAMES}, where KIND is C{twisted}
or C{asyncio}, and NAMES are those of ports, with commas between them.  C{dns} is a UDP
port, which Twisted alone serves.

The body of an answer is the path of the request without its slash, and the number of
the process.  A datagram is answered likewise.  Each request becomes a line of FILE.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

#: The name of a UDP port.
DATAGRAMS = "dns"


class Notes:
    """
    A file that several processes write to.
    """

    def __init__(self, file: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(file, flags, 0o666)

    def answer(self, word: bytes) -> bytes:
        """
        Note a request, and make the answer.
        """
        os.write(self._descriptor, word + b"\n")
        return b"%s %d\n" % (word, os.getpid())


async def serve(
    notes: Notes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """
    Serve one connection.
    """
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            break
        body = notes.answer(head.split(b" ", 2)[1].removeprefix(b"/"))
        close = b"onnection: close" in head
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s"
            % (len(body), b"Connection: close\r\n" if close else b"", body)
        )
        if close:
            break
    writer.close()


async def inAsyncio(path: str, notes: Notes, names: list[str]) -> None:
    """
    Serve until SIGTERM.
    """
    import portlisten.asyncio

    server = await portlisten.asyncio.start_server(
        lambda reader, writer: serve(notes, reader, writer),
        f"portlisten:{path}:name={','.join(names)}",
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.close)
    await server.wait_closed()


def inTwisted(path: str, notes: Notes, names: list[str], datagrams: bool) -> None:
    """
    Serve until SIGTERM.

    @param datagrams: whether to serve a UDP port as well.
    """
    from twisted.internet import reactor
    from twisted.internet.protocol import DatagramProtocol
    from twisted.logger import globalLogBeginner, textFileLogObserver
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from portlisten.endpoints import PortlistenServerEndpoint, PortlistenUDPEndpoint

    class Noting(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            body = notes.answer(request.path.removeprefix(b"/"))
            request.setHeader("content-length", str(len(body)))
            return body

    class Quiet(Site):
        def log(self, request: Request) -> None:
            """
            Log nothing.
            """

    class Datagrams(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
            assert self.transport is not None
            self.transport.write(notes.answer(datagram), addr)

    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    site = Quiet(Noting())
    site.noisy = False
    PortlistenServerEndpoint(reactor, path, names).listen(site)
    if datagrams:
        PortlistenUDPEndpoint(reactor, path, [DATAGRAMS]).listen(Datagrams)
    reactor.run()


def main(kind: str, path: str, file: str, names: str) -> None:
    """
    Serve.
    """
    every = names.split(",")
    streams = [each for each in every if each != DATAGRAMS]
    if kind == "twisted":
        inTwisted(path, Notes(file), streams, DATAGRAMS in every)
    else:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        asyncio.run(inAsyncio(path, Notes(file), streams))


if __name__ == "__main__":
    main(*sys.argv[1:])
