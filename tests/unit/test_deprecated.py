"""
Tests for the modules that C{.tac} files used to import.
"""

from __future__ import annotations

import importlib

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands import hellofdpass, listener
from twisted.plugins.hellofdpass_plugin import hellofdpass as workerPlugin
from twisted.plugins.portlisten_plugin import portlisten as listenerPlugin


class DeprecatedTests(SynchronousTestCase):
    """
    Tests for L{portlisten.listener} and L{portlisten.hello}.
    """

    def assertDeprecated(self, old: str, new: object, plugin: str) -> None:
        """
        Expect that a module has what another has, with a warning.
        """
        module = importlib.import_module(old)
        for name in ("Options", "makeService"):
            self.assertIs(getattr(module, name), getattr(new, name))
            (warning,) = self.flushWarnings([self.assertDeprecated])
            self.assertIs(warning["category"], DeprecationWarning)
            self.assertIn(f"{old}.{name} was deprecated", warning["message"])
            self.assertIn(f"of {plugin} instead", warning["message"])

    def test_listener(self) -> None:
        """
        The listener's options and service are where they were.
        """
        self.assertDeprecated(
            "portlisten.listener", listener, "twisted.plugins.portlisten_plugin"
        )

    def test_hello(self) -> None:
        """
        So are the worker's.
        """
        self.assertDeprecated(
            "portlisten.hello", hellofdpass, "twisted.plugins.hellofdpass_plugin"
        )

    def test_plugins(self) -> None:
        """
        The plugins have the same.
        """
        for plugin, module in [(listenerPlugin, listener), (workerPlugin, hellofdpass)]:
            self.assertIs(plugin.options, module.Options)
            self.assertIs(plugin.makeService, module.makeService)
