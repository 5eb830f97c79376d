"""
Tests for L{portlisten._config.compare}.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.compare import Plan, compare, needsNewProcess, takeOver
from portlisten._config.file import RunSettings, WorkersSettings
from portlisten._config.settings import ListenerSettings


def workers(name: str = "web", **settings: Any) -> WorkersSettings:
    """
    Make the settings of a group.
    """
    made: dict[str, Any] = {"command": ("serve", "{path}"), "user": 33, **settings}
    return WorkersSettings(name=name, **made)


def run(*groups: WorkersSettings, **listener: Any) -> RunSettings:
    """
    Make the settings of a file.
    """
    made = {"path": "/run/s", "listen": ("http=80",), **listener}
    return RunSettings(listener=ListenerSettings(**made), user=7, workers=groups)


class CompareTests(SynchronousTestCase):
    """
    Tests for L{compare}.
    """

    def plan(self, old: RunSettings, new: RunSettings, *lines: str) -> Plan:
        """
        Compare, and check the lines.  Nothing may be refused.
        """
        plan = compare(old, new)
        self.assertEqual(plan.problems, ())
        self.assertEqual(list(plan.lines), list(lines))
        self.assertEqual(plan.isEmpty, not lines)
        return plan

    def refused(self, old: RunSettings, new: RunSettings) -> list[str]:
        """
        Compare, and return what is refused.
        """
        found = [str(each) for each in compare(old, new).problems]
        for each in found:
            self.assertTrue(each.endswith(": stop it, and run it again"), each)
        return [each.removesuffix(": stop it, and run it again") for each in found]

    def test_nothing(self) -> None:
        """
        Two equal files, or files in another order, are no change.  A number alone is a
        TCP port.
        """
        first = run(workers(), workers("api"), listen=("a=80", "b=81:defer=3"))
        second = run(workers("api"), workers(), listen=("b=81:defer=3", "a=80"))
        third = replace(
            first, listener=run(listen=("a=tcp:80", "b=tcp:81:defer=3")).listener
        )
        for new in (first, second, third):
            plan = self.plan(first, new)
            self.assertEqual((plan.listener, plan.groups), (False, ()))

    def test_ports(self) -> None:
        """
        Ports are added and removed, and the listener is started anew.
        """
        plan = self.plan(
            run(listen=("http=80", "old=tcp:81"), share=("dns=udp:53",)),
            run(listen=("http=80", "https=443"), share=("dns=udp:53", "dns=53")),
            "port https=443 is added",
            "port dns=53 is added",
            "port old=tcp:81 is removed",
            "the listener is started anew",
        )
        self.assertTrue(plan.listener)
        self.assertEqual([str(each) for each in plan.removed], ["old=tcp:81"])
        self.assertEqual(
            [(each.text, each.shared) for each in plan.added],
            [("443", False), ("53", True)],
        )

    def test_kept(self) -> None:
        """
        A port with another name, way or option stays bound.
        """
        plan = self.plan(
            run(listen=("http=80:nodelay=yes", "a=81:defer=3")),
            run(listen=("web=80",), share=("a=81:defer=3:keepalive=60",)),
            "port http=80:nodelay=yes gets another name: it is now web",
            "port web=80: nodelay yes -> the host's",
            "port a=81:defer=3:keepalive=60: workers accept on it themselves from now"
            " on",
            "port a=81:defer=3:keepalive=60: keepalive the host's -> 60",
            "the listener is started anew",
        )
        self.assertEqual((plan.added, plan.removed, len(plan.kept)), ((), (), 2))
        back = compare(run(listen=(), share=("http=80",)), run())
        self.assertIn("handed to workers from now on", back.lines[0])

    def test_metrics(self) -> None:
        """
        The monitor is a matter of its own.
        """
        for old, new, line in (
            (None, "9100", "the monitor is started at 9100"),
            ("9100", None, "the monitor at 9100 is stopped"),
            ("1", "2", "the monitor is started anew: metrics 1 -> 2"),
        ):
            plan = self.plan(run(metrics=old), run(metrics=new), line)
            self.assertTrue(plan.metrics)
            self.assertFalse(plan.listener)
        self.assertFalse(self.plan(run(metrics="1"), run(metrics="1")).metrics)
        # Sockets of systemd's come at the start alone.
        first, second = (f"systemd:domain=INET:index={index}" for index in (1, 2))
        self.assertFalse(self.plan(run(metrics=first), run(metrics=first)).metrics)
        self.assertEqual(
            self.refused(run(metrics=first), run(metrics=second)),
            [
                f"metrics: {first} is bound by another process, and cannot be given"
                " back",
                f"metrics: {second} can be taken only at the start",
            ],
        )

    def test_optionsAlone(self) -> None:
        """
        For options that can be set on a bound socket, the listener goes on.
        """
        plan = self.plan(
            run(listen=("http=80:nodelay=yes",)),
            run(listen=("http=80:nodelay=no",)),
            "port http=80:nodelay=no: nodelay yes -> no",
        )
        self.assertFalse(plan.listener)
        self.assertEqual(len(plan.kept), 1)

    def test_balance(self) -> None:
        """
        The listener tells its workers whether to balance, so it is started anew.
        """
        plan = self.plan(
            run(listen=(), share=("http=80",)),
            run(listen=(), share=("http=80:balance=no",)),
            "port http=80:balance=no: balance yes -> no",
            "the listener is started anew",
        )
        self.assertTrue(plan.listener)
        same = compare(
            run(listen=(), share=("http=80:balance=yes",)),
            run(listen=(), share=("http=80",)),
        )
        self.assertFalse(same.listener)
        self.assertEqual(same.lines, ())

    def test_limits(self) -> None:
        """
        The listener that is started anew has other limits, and its port stays bound.
        """
        for old, new, lines in (
            (
                "80",
                "80:max-per-source=5:deny=10.0.0.0/8,192.0.2.7",
                [
                    "max-per-source none -> 5",
                    "deny none -> 10.0.0.0/8,192.0.2.7",
                    "fair no -> yes",
                ],
            ),
            (
                "80:rate=20/s:source-prefix=24:fair=yes",
                "80:rate=30/m burst 5:beyond=wait",
                [
                    "rate 20/s burst 20 -> 30/m burst 5",
                    "beyond reset -> wait",
                    "fair yes -> no",
                    "source-prefix 24 -> 32",
                ],
            ),
            ("80:max=5", "80", ["max 5 -> none"]),
            (
                "systemd:domain=INET:index=0",
                "systemd:domain=INET:index=0:max=5",
                ["max none -> 5"],
            ),
        ):
            plan = self.plan(
                run(listen=(f"http={old}",)),
                run(listen=(f"http={new}",)),
                *(f"port http={new}: {line}" for line in lines),
                "the listener is started anew",
            )
            self.assertTrue(plan.listener)
            self.assertEqual((plan.added, plan.removed, len(plan.kept)), ((), (), 1))
        same = self.plan(
            run(listen=("http=80:max=5",)),
            run(listen=("http=80:max=5:beyond=reset:fair=no",)),
        )
        self.assertFalse(same.listener)

    def test_listener(self) -> None:
        """
        Each option of the listener that changes is named, with both values.
        """
        plan = self.plan(
            run(),
            run(patience=30.0, allowUsers=(33, 34), backlog=5, onTimeout="exit"),
            "the listener is started anew: allow-user every user that may write to PATH"
            " -> 33,34, backlog what the host allows, net.core.somaxconn -> 5, patience"
            " 60 -> 30, on-timeout close -> exit",
        )
        self.assertTrue(plan.listener)
        self.assertTrue(plan.backlog)

    def test_refused(self) -> None:
        """
        What cannot change is refused, with its key, all at once.
        """
        old = run(listen=("http=80", "in=systemd:domain=INET:index=0"))
        new = run(
            path="/run/t",
            control="",
            mode=0o600,
            group=5,
            listen=("http=80:mptcp=yes:freebind=yes", "b=systemd:domain=INET:index=1"),
        )
        self.assertEqual(
            self.refused(old, replace(new, user=8)),
            [
                "ports.http.listen: mptcp of 80:mptcp=yes:freebind=yes cannot change"
                " while the port is bound",
                "ports.http.listen: freebind of 80:mptcp=yes:freebind=yes cannot change"
                " while the port is bound",
                "ports.b.listen: systemd:domain=INET:index=1 can be taken only at the"
                " start",
                "ports.in: systemd:domain=INET:index=0 is bound by another process, and"
                " cannot be given back",
                "user: the listener's user cannot change while it runs",
                "mode: it is 0660, and cannot change while it runs",
                "group: it is the process's, and cannot change while it runs",
                "control: it is PATH.ctl, and cannot change while it runs",
                "path: it is /run/s, and cannot become /run/t",
            ],
        )

    def test_groups(self) -> None:
        """
        Groups are added and removed; counts change; some settings need new processes,
        and others are taken over.
        """
        plan = self.plan(
            run(workers(), workers("api", count=2), workers("old")),
            run(
                workers(count=3, grace=5.0, maxAge=60.0),
                workers("api", count=1, command=("new",), environment={"A": "b"}),
                workers("other"),
            ),
            "workers web: 1 -> 3",
            "workers web: grace 30 -> 5, max-age none -> 1m",
            "workers api: 2 -> 1",
            "workers api: the command and environment change, so they are replaced one"
            " after the other",
            "workers other are added: 1",
            "workers old are removed",
        )
        self.assertFalse(plan.listener)
        self.assertEqual(
            [(each.name, each.replaced) for each in plan.groups],
            [("web", False), ("api", True), ("other", False), ("old", False)],
        )
        self.assertIsNone(plan.groups[2].running)
        self.assertIsNone(plan.groups[3].wanted)

    def test_oneSetting(self) -> None:
        """
        Each setting that needs new processes does so alone.
        """
        changes: dict[str, Any] = {
            "command": ("other",),
            "user": 34,
            "group": 5,
            "folder": "/srv",
            "umask": 0o27,
            "openFiles": 100,
            "environment": {"A": "b"},
        }
        for name, value in changes.items():
            new = replace(workers(), **{name: value})
            self.assertTrue(needsNewProcess(workers(), new), name)
            (line,) = compare(run(workers()), run(new)).lines
            self.assertIn(" changes, so they are replaced", line)

    def test_takeOver(self) -> None:
        """
        A worker takes over what needs no new process, and nothing else.
        """
        new = workers(count=5, command=("other",), stop=3.0, ready=4.0, failures=1)
        self.assertEqual(
            takeOver(workers(), new), workers(stop=3.0, ready=4.0, failures=1)
        )
        self.assertFalse(needsNewProcess(workers(), takeOver(workers(), new)))
