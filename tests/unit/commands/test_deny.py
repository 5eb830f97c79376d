"""
Tests for L{portlisten._commands.deny}: the command lines, and what is asked and shown,
with a listener made by hand.
"""

from __future__ import annotations

from portlisten._commands import asking
from portlisten._control.messages import (
    Allow,
    AllowAnswer,
    Allowed,
    Answer,
    DenialsAnswer,
    Deny,
    ListDenials,
    Request,
)
from portlisten._control.status import DenialStatus
from tests.support.control_commands import ControlCommandTestCase


class NetworksTestCase(ControlCommandTestCase):
    """
    A command, and a listener.
    """

    def ask(
        self, answer: Answer | str, *arguments: str
    ) -> tuple[object, str, str, Request]:
        """
        Run a command while a listener answers.

        @return: what L{run_} returns, and the request.
        """
        self.serve(answer)
        result = self.run_(*arguments)
        self.thread.join()
        return *result, self.requests.pop()


class UsageTests(NetworksTestCase):
    """
    Command lines.
    """

    def test_wrong(self) -> None:
        """
        A mistake is one line.
        """
        no = "is neither an address nor a network, such as"
        for command, arguments, reason in (
            ("deny", ["s", "x"], f"'x' {no}"),
            ("deny", ["s", "192.0.2.256"], f"'192.0.2.256' {no}"),
            ("deny", ["192.0.2.256"], f"'192.0.2.256' {no}"),
            ("deny", ["192.0.2.0/33"], f"'192.0.2.0/33' {no}"),
            ("deny", ["2001:db8::/129", "::1"], f"'2001:db8::/129' {no}"),
            ("deny", ["s", "192.0.2.7/24"], "'192.0.2.7/24' is an address with the le"),
            ("deny", ["s", "192.0.2.7", "--for=0"], "--for: '0' is no time such as"),
            ("deny", ["s", "192.0.2.7", "--for"], "option --for requires argument"),
            ("deny", ["s", "--for=10m"], "--for needs ADDRESS"),
            ("deny", ["--", "-s", "192.0.2.7"], "PATH would be '-s': "),
            ("allow", ["--for=10m", "s", "192.0.2.7"], "option --for not recognized"),
            ("allow", ["s"], "expected ADDRESS"),
            ("allow", [], "expected ADDRESS"),
            ("allow", ["s", "x"], f"'x' {no}"),
        ):
            code, output, errors = self.run_(command, *arguments)
            self.assertEqual((code, output), (asking.NOT_ASKED, ""), arguments)
            self.assertIn(f"portlisten {command}: {reason}", errors)
            self.assertTrue(errors.endswith(f" (see 'portlisten {command} --help')\n"))
            self.assertEqual(errors.count("\n"), 1)

    def test_noListener(self) -> None:
        """
        A path where no listener is is one line, too, and so is an older listener.
        """
        for command in ("deny", "allow"):
            code, output, errors = self.run_(command, self.path, "192.0.2.7")
            self.assertEqual((code, output), (asking.NOT_ASKED, ""))
            self.assertIn(f"portlisten {command}: no listener runs at ", errors)
            *result, _ = self.ask(
                f'unknown command "{command}"', command, self.path, "192.0.2.7"
            )
            self.assertEqual(
                result,
                [
                    asking.NOT_ASKED,
                    "",
                    f"portlisten {command}: the listener at {self.path} is older, and"
                    " cannot deny clients: restart it\n",
                ],
            )

    def test_only(self) -> None:
        """
        Without a path, the command asks the only listener.
        """
        self.patch(asking, "FOLDER", self.folder)
        *_, request = self.ask(AllowAnswer(()), "allow", "192.0.2.7")
        self.assertEqual(request, Allow(("192.0.2.7",)))
        *_, request = self.ask(DenialsAnswer(0), "deny")
        self.assertEqual(request, ListDenials())

    def test_pathLikeAddress(self) -> None:
        """
        If a listener's path looks like a wrong address, the listener is meant.
        """
        self.path = "1.2"
        *_, request = self.ask(DenialsAnswer(0), "deny", "1.2", "192.0.2.7")
        self.assertEqual(request, Deny(("192.0.2.7",)))

    def test_control(self) -> None:
        """
        The control socket may be elsewhere, and options may come last.
        """
        self.serve(DenialsAnswer(0), f"{self.path}.other")
        code, _, errors = self.run_("deny", self.path, f"--control={self.path}.other")
        self.thread.join()
        self.assertEqual((code, errors), (0, ""))


class DenyTests(NetworksTestCase):
    """
    Tests for C{portlisten deny}.
    """

    def test_denies(self) -> None:
        """
        The listener is asked, and the command says what is denied, and for how long.
        """
        answer = DenialsAnswer(
            7, (DenialStatus("192.0.2.7", 600.0), DenialStatus("2001:db8::/32"))
        )
        words = [self.path, "192.0.2.7", "2001:DB8::/32"]
        for arguments, seconds in (
            (words, ()),
            ([*words, "--for", "90"], ("90.0",)),
            ([*words, "--for=90s"], ("90.0",)),
            (["--for", "10m", *words], ("600.0",)),
            ([words[0], "--for", "1.5h", *words[1:]], ("5400.0",)),
            ([*words, "--for=1d"], ("86400.0",)),
        ):
            *result, request = self.ask(answer, "deny", *arguments)
            self.assertEqual(
                result,
                [
                    0,
                    "192.0.2.7 is denied for 10 min\n"
                    "2001:db8::/32 is denied until it is allowed\n",
                    "",
                ],
            )
            self.assertEqual(request, Deny(("192.0.2.7", "2001:db8::/32"), seconds))
            *result, _ = self.ask(answer, "deny", "--quiet", *arguments)
            self.assertEqual(result, [0, "", ""])

    def test_lists(self) -> None:
        """
        Without an address, the command lists what is denied.
        """
        for answer, output in (
            (DenialsAnswer(0), "nothing is denied\n"),
            (
                DenialsAnswer(
                    3, (DenialStatus("2001:db8::/32"), DenialStatus("192.0.2.7", 65.0))
                ),
                "2001:db8::/32  until it is allowed\n"
                "192.0.2.7      for 1 min 5 s\n"
                "and 1 other network\n",
            ),
        ):
            *result, request = self.ask(answer, "deny", self.path)
            self.assertEqual(result, [0, output, ""])
            self.assertEqual(request, ListDenials())


class AllowTests(NetworksTestCase):
    """
    Tests for C{portlisten allow}.
    """

    def test_allows(self) -> None:
        """
        It is no failure if an address was not denied.
        """
        answer = AllowAnswer((Allowed("192.0.2.7", True), Allowed("::1", False)))
        words = [self.path, "192.0.2.7", "::1"]
        *result, request = self.ask(answer, "allow", *words)
        self.assertEqual(
            result, [0, "192.0.2.7 is denied no more\n::1 was not denied\n", ""]
        )
        self.assertEqual(request, Allow(("192.0.2.7", "::1")))
        *result, request = self.ask(answer, "allow", "--quiet", *words)
        self.assertEqual(result, [0, "", ""])

    def test_stillDenied(self) -> None:
        """
        If an address is still denied, the command says why, and fails.
        """
        for settings, reason in (
            (False, "as a part of 192.0.2.0/24: allow that\n"),
            (
                True,
                "the settings deny 192.0.2.0/24, which cannot be allowed while it"
                " runs: change the settings, and reload\n",
            ),
        ):
            allowed = Allowed("192.0.2.7", not settings, "192.0.2.0/24", settings)
            *result, _ = self.ask(
                AllowAnswer((allowed,)), "allow", self.path, "192.0.2.7"
            )
            colon = ":" if settings else ","
            self.assertEqual(
                result,
                [
                    1,
                    "",
                    f"portlisten allow: 192.0.2.7 is still denied{colon} {reason}",
                ],
            )
