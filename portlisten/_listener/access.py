"""
Which users may be at the other end of a channel.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from portlisten._kernel.sockets import Credentials


@dataclass(frozen=True)
class Access:
    """
    A list of users and groups.  If both are empty, every user is permitted: then only
    the path's mode decides.

    @ivar users: uids.
    @ivar groups: gids, of a process's own group or of one of its other groups.
    """

    users: Collection[int] = ()
    groups: Collection[int] = ()

    def permits(self, who: Credentials) -> bool:
        """
        Say whether a process may be a worker.
        """
        if not self.users and not self.groups:
            return True
        return who.uid in self.users or not {who.gid, *who.groups}.isdisjoint(
            self.groups
        )

    def explain(self, who: Credentials) -> str:
        """
        Say why a process may not be a worker.
        """
        reason = (
            f"uid {who.uid} may not be a worker here: the listener's --allow-user"
            " and --allow-group say who may"
        )
        if self.groups and not who.groupsKnown:
            reason += (
                "; this kernel does not say which other groups it is in, so only its"
                f" first one counts, gid {who.gid}"
            )
        return reason
