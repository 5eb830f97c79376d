"""
What clients saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Load:
    """
    What clients saw.  See L{tests.systemd.client.Clients}.

    @ivar window: the time between the first and the last refusal, in seconds.
    """

    ok: int = 0
    refused: int = 0
    cut: int = 0
    late: int = 0
    wrong: int = 0
    window: float = 0.0
    longest: float = 0.0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        names = ("refused", "cut", "late", "wrong")
        bad = [f"{getattr(self, each)} {each}" for each in names if getattr(self, each)]
        return f"{self.ok} clients, {', '.join(bad) or '0 errors'}"

    def check(self, *allowed: str) -> Load:
        """
        Check that clients were served, and that nothing else happened to any.

        @param allowed: what may happen to some.
        """
        assert self.ok > 20, f"too few clients: {self}"
        for name in {"refused", "cut", "late", "wrong"} - set(allowed):
            assert not getattr(self, name), f"{self}: {self.errors}"
        return self
