"""
Functions of Linux that Python lacks.

The package relies on facts about the kernel.  All of them are in this folder, each with
its source.  The other folders use the names that this module exports.
"""

from portlisten._kernel.clock import setTimer, timer
from portlisten._kernel.errors import EXHAUSTED, PASSING, insist
from portlisten._kernel.messages import (
    MAXIMUM_DESCRIPTORS,
    SO_PASSRIGHTS,
    charge,
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
    peerProcess,
)
from portlisten._kernel.processes import (
    closeElsewhere,
    initialEnvironment,
    mayChangeUsers,
    reap,
)
from portlisten._kernel.progress import departed, untouched
from portlisten._kernel.sockets import (
    MAXIMUM_PATH,
    SO_COOKIE,
    accept,
    closeCopy,
    cookie,
    datagramSocket,
    family,
    identify,
    kindOf,
    listens,
    queued,
    shutDown,
)
from portlisten._kernel.spare import SpareDescriptor

# The names that callers still use.
forget = closeCopy
pristine = untouched
room = offersThatFit

__all__ = [
    "Credentials",
    "EXHAUSTED",
    "MAXIMUM_DESCRIPTORS",
    "MAXIMUM_PATH",
    "PASSING",
    "SO_COOKIE",
    "SO_PASSRIGHTS",
    "SO_PEERGROUPS",
    "SO_PEERPIDFD",
    "SpareDescriptor",
    "accept",
    "charge",
    "closeCopy",
    "closeElsewhere",
    "cookie",
    "credentials",
    "datagramSocket",
    "departed",
    "family",
    "forget",
    "hasEnded",
    "hungUp",
    "identify",
    "initialEnvironment",
    "insist",
    "kindOf",
    "listens",
    "mayChangeUsers",
    "offersThatFit",
    "peerProcess",
    "pristine",
    "queued",
    "reap",
    "receive",
    "receiveBytes",
    "refuseDescriptors",
    "refusesDescriptors",
    "room",
    "send",
    "sendTo",
    "setTimer",
    "shutDown",
    "timer",
    "unread",
    "untouched",
]
