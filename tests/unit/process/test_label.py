"""
Tests for L{portlisten._process.label}.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from portlisten._process.label import VARIABLE, labelOf


class LabelTests(SynchronousTestCase):
    """
    Tests for L{labelOf}.
    """

    def environment(self, **variables: str) -> None:
        """
        Set the environment.
        """
        self.patch(os, "environ", variables)

    def test_given(self) -> None:
        """
        An option wins over the environment.
        """
        self.environment(**{VARIABLE: "web-1"})
        self.assertEqual(labelOf("web-2"), "web-2")

    def test_environment(self) -> None:
        """
        Without an option, the environment says the label.
        """
        self.environment(**{VARIABLE: "web-1"})
        self.assertEqual(labelOf(None), "web-1")

    def test_none(self) -> None:
        """
        A worker need not have a label.
        """
        self.environment()
        self.assertEqual(labelOf(None), "")
        self.environment(**{VARIABLE: ""})
        self.assertEqual(labelOf(None), "")

    def test_bad(self) -> None:
        """
        A bad label is refused, and the error says where it is from.
        """
        self.environment(**{VARIABLE: "12"})
        error = self.assertRaises(ValueError, labelOf, None)
        self.assertIn("PORTLISTEN_LABEL: '12' is no label", str(error))
        error = self.assertRaises(ValueError, labelOf, "a b")
        self.assertTrue(str(error).startswith("'a b' is no label"))
