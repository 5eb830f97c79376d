"""
Tests for L{portlisten._worker.tls}.
"""

from __future__ import annotations

import gc
import os
import sys
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from portlisten._worker.tls import FILES, contextFactory
from tests.support.commands import endpointRefusal
from tests.support.tls import OpenSSL, certify, needsTLS


class ContextFactoryTests(SynchronousTestCase):
    """
    Tests for L{contextFactory}.
    """

    if needsTLS:
        skip = needsTLS

    def setUp(self) -> None:
        """
        Make a key and its certificate.
        """
        os.makedirs(folder := os.path.dirname(self.mktemp()), exist_ok=True)
        self.prefix = os.path.join(folder, "it")
        self.key, self.certificate = certify(self.prefix)
        self.good = {"privateKey": self.key, "certKey": self.certificate}

    def refusal(self, **files: str) -> str:
        """
        Why files are refused, which has to be one line.
        """
        return endpointRefusal(self, contextFactory, files)

    def test_files(self) -> None:
        """
        They are read at once.
        """
        made = contextFactory(self.good)
        os.unlink(self.key)
        os.unlink(self.certificate)
        self.assertIsInstance(made.getContext(), OpenSSL.SSL.Context)

    def test_oneFile(self) -> None:
        """
        Key and certificate may be in one file, whose name may be any.
        """
        name = f"{self.prefix}:both"
        with open(name, "w") as both:
            for path in (self.key, self.certificate):
                with open(path) as file:
                    both.write(file.read())
        made = contextFactory({"privateKey": name})
        self.assertIsInstance(made.getContext(), OpenSSL.SSL.Context)

    def test_chain(self) -> None:
        """
        A chain of certificates goes along.
        """
        _, other = certify(f"{self.prefix}2")
        made = contextFactory({**self.good, "extraCertChain": other})
        self.assertEqual(len(made.extraCertChain), 1)

    def test_noKey(self) -> None:
        """
        No other file is of use without a key.
        """
        for option in FILES[1:]:
            self.assertEqual(
                self.refusal(**{option: self.certificate}),
                f"portlisten: {option} needs privateKey, the key's file",
            )

    def test_unloadable(self) -> None:
        """
        A file that does not load is refused, with its name and the reason.
        """
        otherKey, _ = certify(f"{self.prefix}2")
        with open(empty := f"{self.prefix}.empty", "w"):
            pass
        for files, why in [
            ({"privateKey": "missing.pem"}, "missing.pem: No such file or directory"),
            ({"privateKey": os.getcwd()}, "Is a directory"),
            ({**self.good, "privateKey": empty}, "OpenSSL says: "),
            ({"privateKey": self.key}, "OpenSSL says: "),
            ({**self.good, "privateKey": otherKey}, "do not match"),
            ({**self.good, "extraCertChain": empty}, "doesn't contain any valid"),
            ({**self.good, "dhParameters": empty}, "OpenSSL says: "),
        ]:
            refusal = self.refusal(**files)
            self.assertIn(why, refusal)
            for option, path in files.items():
                self.assertIn(f"{option}={path}", refusal)
        # An error of OpenSSL's has its file open for as long as it is around.
        gc.collect()

    def test_noOpenSSL(self) -> None:
        """
        Where the library is missing, the refusal says how to install it.
        """
        with patch.dict(sys.modules, {"OpenSSL": None}):
            refusal = self.refusal(privateKey=self.key)
        self.assertIn("pip install 'twisted[tls]'", refusal)
