"""
Functions of Linux that Python lacks.

The package relies on facts about the kernel.  All of them are in this folder, each with
its source.  The other folders use the names that this module exports.
"""

from typing import TYPE_CHECKING

from portlisten import _compiled
from portlisten._kernel.batch import Connection, acceptMany, acceptSockets
from portlisten._kernel.clock import setTimer, timer
from portlisten._kernel.connections import ConnectionSocket, leadsTo
from portlisten._kernel.errors import (
    EXHAUSTION_ERRORS,
    TEMPORARY_ERRORS,
    UNUSABLE_ERRORS,
    retry,
)
from portlisten._kernel.first_bytes import FirstBytes, silent
from portlisten._kernel.host import longestBacklog, mostOpenFiles
from portlisten._kernel.living import (
    LiveConnection,
    liveConnections,
)
from portlisten._kernel.messages import (
    MAXIMUM_DESCRIPTORS,
    SO_PASSRIGHTS,
    charge,
    enlargeSendBuffer,
    offersThatFit,
    receive,
    receiveBytes,
    refuseDescriptors,
    refusesDescriptors,
    send,
    sendTo,
    unread,
)
from portlisten._kernel.peers import (
    SO_PEERGROUPS,
    SO_PEERPIDFD,
    Credentials,
    credentials,
    hasEnded,
    hungUp,
    lives,
    peerProcess,
    processEnded,
)
from portlisten._kernel.processes import (
    closeElsewhere,
    dropAmbientCapabilities,
    endWithParent,
    gainNoPrivileges,
    hasCapabilities,
    initialEnvironment,
    mayChangeUsers,
    maySignalUsers,
    openDescriptors,
    reap,
)
from portlisten._kernel.progress import departed, untouched
from portlisten._kernel.refusal import admitClients, refuseClients
from portlisten._kernel.scheduling import giveWay, runAsBefore, runInBatches
from portlisten._kernel.sessions import (
    runs,
    sessionSizes,
    signalSession,
    unreadBytes,
)
from portlisten._kernel.shared_memory import (
    SharedMemory,
    WrongMemory,
    attachMemory,
    createMemory,
    memoryNumber,
)
from portlisten._kernel.sockets import (
    IPPROTO_MPTCP,
    MAXIMUM_PATH,
    SO_COOKIE,
    HasOptions,
    accept,
    closeCopy,
    cookie,
    datagramSocket,
    duplicate,
    family,
    hasCookie,
    identify,
    isShutDown,
    kindOf,
    leadsToCookie,
    listenQueue,
    listens,
    packed,
    peekBytes,
    queued,
    received,
    recognize,
    sendBytes,
)
from portlisten._kernel.spare import SpareDescriptor, descriptorsShort
from portlisten._kernel.waiting import clientsWaiting, isAtPath, queueLength

_batch = _compiled.accepting()
if not TYPE_CHECKING and _batch is not None:
    Connection, acceptMany = _batch.Connection, _batch.acceptMany

__all__ = [
    "Connection",
    "ConnectionSocket",
    "Credentials",
    "EXHAUSTION_ERRORS",
    "FirstBytes",
    "SharedMemory",
    "HasOptions",
    "IPPROTO_MPTCP",
    "LiveConnection",
    "MAXIMUM_DESCRIPTORS",
    "MAXIMUM_PATH",
    "TEMPORARY_ERRORS",
    "UNUSABLE_ERRORS",
    "SO_COOKIE",
    "SO_PASSRIGHTS",
    "SO_PEERGROUPS",
    "SO_PEERPIDFD",
    "SpareDescriptor",
    "WrongMemory",
    "accept",
    "attachMemory",
    "acceptMany",
    "acceptSockets",
    "admitClients",
    "charge",
    "clientsWaiting",
    "closeCopy",
    "closeElsewhere",
    "cookie",
    "createMemory",
    "credentials",
    "datagramSocket",
    "departed",
    "descriptorsShort",
    "dropAmbientCapabilities",
    "endWithParent",
    "enlargeSendBuffer",
    "duplicate",
    "family",
    "gainNoPrivileges",
    "giveWay",
    "hasCapabilities",
    "hasCookie",
    "hasEnded",
    "lives",
    "hungUp",
    "identify",
    "isAtPath",
    "initialEnvironment",
    "retry",
    "kindOf",
    "leadsTo",
    "leadsToCookie",
    "listenQueue",
    "listens",
    "liveConnections",
    "longestBacklog",
    "mayChangeUsers",
    "maySignalUsers",
    "memoryNumber",
    "mostOpenFiles",
    "offersThatFit",
    "openDescriptors",
    "packed",
    "peekBytes",
    "peerProcess",
    "processEnded",
    "queueLength",
    "queued",
    "sendBytes",
    "runAsBefore",
    "runInBatches",
    "runs",
    "sessionSizes",
    "signalSession",
    "reap",
    "receive",
    "receiveBytes",
    "received",
    "recognize",
    "refuseClients",
    "refuseDescriptors",
    "refusesDescriptors",
    "send",
    "sendTo",
    "setTimer",
    "silent",
    "isShutDown",
    "timer",
    "unread",
    "unreadBytes",
    "untouched",
]
