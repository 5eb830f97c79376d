"""
The process that reads a file, and the users that it may give to others.
"""

from __future__ import annotations

from dataclasses import dataclass

from portlisten._config.values import Group, User


@dataclass(frozen=True)
class Caller:
    """
    The process that reads the file.

    @ivar uid: its user.
    @ivar gid: its group.
    """

    uid: int
    gid: int

    def takeUser(self, value: object, role: str) -> int:
        """
        Take the user of some processes.

        @param role: what the processes are.
        @raise ValueError: if it does not exist, or the processes cannot be its.
        """
        uid = User().take(value)
        if uid == 0:
            raise ValueError(
                f"{role} needs no privilege, and must not run as root: name another"
                " user"
            )
        if self.uid not in (0, uid):
            raise ValueError(
                f"only root can start processes of another user: leave it out, or run"
                f" portlisten as root; you are user {self.uid}"
            )
        return uid

    def takeGroup(self, value: object) -> int:
        """
        Take the group of workers.

        @raise ValueError: if it does not exist, or the workers cannot have it.
        """
        gid = Group().take(value)
        if gid == 0 and self.uid == 0:
            raise ValueError(
                "a worker needs no privilege, and must not be in the group root: name"
                " another group"
            )
        if self.uid != 0 and gid != self.gid:
            raise ValueError(
                "only root can give processes another group: leave it out, or run"
                " portlisten as root"
            )
        return gid
