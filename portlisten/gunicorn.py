"""
Makes gunicorn's processes workers, without a change to gunicorn.

gunicorn binds its sockets itself, and its processes call C{accept()}.  This module
teaches it one more kind of address, C{portlisten:PATH}.  To load the module, give it to
gunicorn as its configuration::

    gunicorn -c python:portlisten.gunicorn --bind portlisten:PATH:name=http app:app

A configuration in Python may say C{import portlisten.gunicorn} instead.  This module
sets no option and no hook of gunicorn's, so those of the user stay as they are.

gunicorn's first process, the arbiter, only checks the addresses.  Each process that it
forks is a worker of its own, from the moment that it has loaded the application until
it is told to end.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

from portlisten import _kernel
from portlisten._anyloop import log
from portlisten._anyloop.descriptions import understand
from portlisten._blocking.connections import tellEnds
from portlisten._config.descriptions import PREFIX
from portlisten.blocking import ListeningSocket
from portlisten.errors import EndpointError

__all__: list[str] = []

#: How long a process waits for a listener before it serves, in seconds, and between two
#: tries if it cannot even look for one.
_WAIT_SECONDS = 2.0

#: What to do instead of another C{--worker-class}.
_START_UVICORN = (
    "start uvicorn itself, with --loop portlisten.asyncio:loop --host portlisten:PATH"
)
_SHARE = "let the listener share the port, and start gunicorn by portlisten exec"


class _Address(str):
    """
    A description, in the place of an address.
    """


@cache
def _address(description: str) -> _Address:
    """
    Check a description.  One that was right once stays right: while gunicorn runs, the
    folder of the path may be missing for a time.

    @raise EndpointError: if it can never work.
    """
    understand(description, "give gunicorn --certfile and --keyfile instead")
    return _Address(description)


class _Listener:
    """
    Takes the place of a listening socket in the arbiter.

    @ivar family: no family of addresses.
    """

    family = 0

    def __init__(self, description: str) -> None:
        self.description = description

    def __str__(self) -> str:
        return self.description

    @property
    def sock(self) -> _Listener:
        """
        This object: gunicorn's own sockets are wrapped, and this is not.
        """
        return self

    def getsockname(self) -> tuple[str, int]:
        """
        Give a name that is no file, so that gunicorn removes none.
        """
        return self.description, 0

    def fileno(self) -> int:
        """
        Give no descriptor: see L{_passed}.
        """
        return -1

    def get_backlog(self) -> None:
        """
        Nobody waits here.
        """

    def close(self) -> None:
        """
        Do nothing: there is nothing to close.
        """


class _Ordinary:
    """
    gunicorn's configuration without the addresses of listeners.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self.address = [each for each in config.address if not _isOurs(each)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def _isOurs(address: Any) -> bool:
    return isinstance(address, _Address)


def _parseAddress(ordinary: Any, address: Any, *arguments: Any, **options: Any) -> Any:
    """
    Take the place of C{gunicorn.util.parse_address}.
    """
    if isinstance(address, str) and address.startswith(PREFIX):
        return _address(address)
    return ordinary(address, *arguments, **options)


def _createSockets(
    ordinary: Any, config: Any, logger: Any, fds: Iterable[int] | None = None
) -> Any:
    """
    Take the place of C{gunicorn.sock.create_sockets}.
    """
    listeners = [_Listener(each) for each in config.address if _isOurs(each)]
    if fds is not None and "GUNICORN_PID" in os.environ:
        fds = _passed(fds)
    if not listeners:
        return ordinary(config, logger, fds)
    return ordinary(_Ordinary(config), logger, fds) + listeners


def _passed(descriptors: Iterable[int]) -> list[int]:
    """
    Find the sockets that an older arbiter has passed.  At SIGUSR2, it counts each
    L{_Listener} as one.
    """
    found = []
    for descriptor in descriptors:
        with suppress(OSError), _kernel.duplicate(descriptor) as sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(descriptor)
    return found


def _makeContext(ordinary: Any, config: Any) -> Any:
    """
    Take the place of C{gunicorn.sock.ssl_context}, which calls the user's hook.
    """
    context = ordinary(config)
    with suppress(TypeError):
        tellEnds(context)
    return context


# The processes that gunicorn forks


def _workerClass(ordinary: Any, config: Any) -> Any:
    """
    Take the place of C{Config.worker_class}.

    @raise EndpointError: if such a process cannot be a worker.
    """
    if not any(_isOurs(each) for each in config.address):
        return ordinary(config)
    setting = config.settings["worker_class"].get()
    name = setting if isinstance(setting, str) else setting.__name__
    asyncio = name == "asgi" or "uvicorn" in name.lower()
    if not asyncio and name not in _FOREIGN:
        chosen = ordinary(config)
        for module, kind, addition in _KINDS:
            base = getattr(importlib.import_module(module), kind)
            if issubclass(chosen, base):
                return _extended(chosen, addition)
    raise EndpointError(
        f"gunicorn's --worker-class must be sync or gthread, not {name}:"
        f" {_START_UVICORN if asyncio else _SHARE}"
    )


def _extended(base: type, addition: type) -> type:
    """
    Make a class of processes that claim connections.
    """
    own = {"__module__": base.__module__}
    return type(base.__name__, (addition, base), own)


class _Socket(ListeningSocket):
    """
    A listening socket that says C{EAGAIN} when it takes no more connections: gunicorn
    may ask once more before it looks whether it should stop.

    The connections have C{TCP_NODELAY}, as those of gunicorn's own listening sockets.
    gunicorn writes head and body of a response one after the other.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        """
        See L{ListeningSocket.accept}.
        """
        try:
            accepted, peer = super().accept()
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise
        if accepted.family != socket.AF_UNIX:
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted, peer


class _Process:
    """
    What is added to gunicorn's class C{sync}.

    @ivar sockets: what the process accepts from.
    """

    cfg: Any
    log: Any
    timeout: float
    sockets: list[Any]
    wait_fds: list[Any]
    PIPE: Sequence[int]

    _listeners: Sequence[_Listener] = ()
    _opened: Sequence[_Socket] = ()
    _alive = True

    @property
    def alive(self) -> bool:
        """
        Whether the process should accept connections.  gunicorn sets this to L{False}
        in signal handlers, and after C{--max-requests}.  Other workers then get the new
        connections, and this one finishes what it has.
        """
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        self._alive = alive
        if not alive:
            self._stop()

    def _stop(self) -> None:
        for each in self._opened:
            each.shutdown(socket.SHUT_RDWR)

    def notify(self) -> None:
        """
        Tell the arbiter that this process is well.
        """
        super().notify()  # type: ignore[misc]

    def is_parent_alive(self) -> bool:
        """
        Called by gunicorn again and again.
        """
        parent: bool = super().is_parent_alive()  # type: ignore[misc]
        if not parent:
            self.alive = False
        return parent

    def init_process(self) -> None:
        """
        Called by gunicorn just after the fork.
        """
        sockets = self.sockets
        self._listeners = [each for each in sockets if isinstance(each, _Listener)]
        self.sockets = [each for each in sockets if not isinstance(each, _Listener)]
        super().init_process()  # type: ignore[misc]

    def run(self) -> None:
        """
        Called by gunicorn when the application is loaded, and the user is the right
        one.
        """
        _logTo(self.log)
        for each in self._listeners:
            opened = self._open(each.description)
            if opened is not None:
                self._opened = [*self._opened, opened]
        if not self.alive:
            self._stop()
        self.sockets = [*self.sockets, *self._opened]
        self.wait_fds = [*self.sockets, self.PIPE[0]]
        if self.sockets:
            super().run()  # type: ignore[misc]

    def _open(self, description: str) -> _Socket | None:
        """
        Begin to look for the listener.

        @return: L{None} if the process should end.
        """
        complaint = ""
        while self.alive and self.is_parent_alive():
            self.notify()
            seconds = min(_WAIT_SECONDS, self.timeout or _WAIT_SECONDS)
            try:
                return _Socket(
                    description, limit=self._limit, first=True, timeout=seconds
                )
            except EndpointError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    self.log.error("%s", complaint)
            time.sleep(seconds)
        return None

    @property
    def _limit(self) -> int:
        """
        How many connections the process has at a time.
        """
        return 1


class _Threads(_Process):
    """
    What is added to gunicorn's class C{gthread}.

    @ivar max_keepalived: how many connections are kept after a response.
    """

    max_keepalived: int

    def notify(self) -> None:
        """
        Called by gunicorn at least once a second.  While the operator drains the
        process, each response says that it is the last one.
        """
        super().notify()
        keeps = self.cfg.worker_connections - self.cfg.threads
        draining = any(each.draining for each in self._opened)
        self.max_keepalived = 0 if draining else keeps

    @property
    def _limit(self) -> int:
        """
        As many as gunicorn accepts.  With as many as there are threads, clients that
        keep connections would leave none for others.
        """
        return int(self.cfg.worker_connections)


#: The classes that can be workers, each with its module and with what is added to it.
_KINDS: list[tuple[str, str, type[_Process]]] = [
    ("gunicorn.workers.sync", "SyncWorker", _Process),
    ("gunicorn.workers.gthread", "ThreadWorker", _Threads),
]

#: The names of classes that cannot, and that change the process when they are loaded.
_FOREIGN = ("eventlet", "gevent", "gevent_wsgi", "gevent_pywsgi", "tornado")


class _Forward(logging.Handler):
    """
    Gives what portlisten logs to gunicorn's logger.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """
        See C{logging.Handler.emit}.
        """
        self._logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)


def _logTo(logger: Any) -> None:
    """
    Let portlisten log where gunicorn does, unless the application has said where.
    """
    if not log.logger.hasHandlers():
        log.logger.addHandler(_Forward(logger))
        log.logger.setLevel(logging.INFO)


def _install() -> None:
    """
    Change what gunicorn calls.

    @raise ImportError: if this gunicorn is another one than this module knows.
    """
    gunicorn: Any = importlib.import_module("gunicorn")
    try:
        util: Any = importlib.import_module("gunicorn.util")
        sock: Any = importlib.import_module("gunicorn.sock")
        config: Any = importlib.import_module("gunicorn.config").Config
        parseAddress, createSockets = util.parse_address, sock.create_sockets
        makeContext, workerClass = sock.ssl_context, config.worker_class.fget
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"portlisten.gunicorn does not know gunicorn {gunicorn.__version__}"
            f" ({error}): use an older gunicorn or a newer portlisten; or {_SHARE}"
        ) from None
    util.parse_address = partial(_parseAddress, parseAddress)
    sock.create_sockets = partial(_createSockets, createSockets)
    sock.ssl_context = partial(_makeContext, makeContext)
    config.worker_class = property(partial(_workerClass, workerClass))


if importlib.util.find_spec("gunicorn") is not None:
    _install()
