"""
What Linux can do that Python has no function for.

Every fact about the kernel that the rest of the package relies on is in this folder,
each with its source.  The other folders use the names that this module exports.
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

# Names that callers still use.

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
    "queued",
    "reap",
    "receive",
    "receiveBytes",
    "refuseDescriptors",
    "refusesDescriptors",
    "send",
    "sendTo",
    "setTimer",
    "shutDown",
    "timer",
    "unread",
    "untouched",
]
