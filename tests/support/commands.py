"""
The form of what commands say.
"""

from __future__ import annotations

from unittest import TestCase


def assertOneLine(test: TestCase, command: str, message: str) -> None:
    """
    Check the form of what a command refuses its arguments with.
    """
    test.assertTrue(message.startswith(f"{command}: "))
    test.assertTrue(message.endswith(f" (see 'twistd {command} --help')"))
    test.assertEqual(len(message.splitlines()), 1)
