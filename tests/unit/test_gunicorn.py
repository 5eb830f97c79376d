"""
Tests for L{portlisten.gunicorn}, without an arbiter.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.support.descriptors import watchDescriptors


class GunicornTests(SynchronousTestCase):
    """
    What is taken from gunicorn, and from an older arbiter.
    """

    if importlib.util.find_spec("gunicorn") is None:
        skip = "gunicorn is not installed"

    def test_unknown(self) -> None:
        """
        If a gunicorn lacks what is replaced, one line says so.
        """
        code = (
            "import gunicorn.util; del gunicorn.util.parse_address\n"
            "try: import portlisten.gunicorn\n"
            "except ImportError as error: print(error)"
        )
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        self.assertRegex(
            output, r"does not know gunicorn [0-9.]+ \(.*parse_address.*\)"
        )

    def test_passed(self) -> None:
        """
        Of the descriptors that an older arbiter counts, only listening sockets are
        taken.  All stay open, and no more are.
        """
        from portlisten.gunicorn import _passed

        watchDescriptors(self)
        pipe = os.pipe()
        for each in pipe:
            self.addCleanup(os.close, each)
        with socket.socket() as idle, socket.create_server(("127.0.0.1", 0)) as one:
            descriptors = [*pipe, idle.fileno(), one.fileno(), 9999]
            self.assertEqual(_passed(descriptors), [one.fileno()])
            one.getsockname()
