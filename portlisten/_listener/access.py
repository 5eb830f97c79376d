"""
Which users may connect as workers.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from portlisten._config.settings import ListenerSettings
from portlisten._kernel import Credentials


@dataclass(frozen=True)
class Access:
    """
    The permitted users and groups.  If both are empty, every user is permitted: then
    only the path's mode decides.

    @ivar users: uids.
    @ivar groups: gids.  A process is permitted if its group, or one of its
        supplementary groups, is one of these.
    """

    users: Collection[int] = ()
    groups: Collection[int] = ()

    def permits(self, credentials: Credentials) -> bool:
        """
        Say whether a process may be a worker.
        """
        if not self.users and not self.groups:
            return True
        groups = {credentials.gid, *credentials.groups}
        return credentials.uid in self.users or not groups.isdisjoint(self.groups)

    def explain(self, credentials: Credentials) -> str:
        """
        Say why a process may not be a worker.
        """
        reason = (
            f"uid {credentials.uid} may not be a worker here: the listener's"
            " --allow-user and --allow-group say who may"
        )
        if self.groups and not credentials.groupsKnown:
            reason += (
                "; this kernel does not say which other groups it is in, so only its"
                f" first one counts, gid {credentials.gid}"
            )
        return reason


def accessFor(settings: ListenerSettings) -> Access:
    """
    Make the access list of the settings.  If users or groups are given, root and this
    process's own user are permitted as well.
    """
    users, groups = list(settings.allowUsers), list(settings.allowGroups)
    if users or groups:
        users = [0, os.geteuid(), *users]
    return Access(users, groups)
