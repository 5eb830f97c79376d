"""
The form of commands' messages.
"""

from __future__ import annotations

from unittest import TestCase


def assertOneLine(test: TestCase, command: str, message: str) -> None:
    """
    Check the form of a message that refuses arguments.
    """
    test.assertTrue(message.startswith(f"{command}: "))
    test.assertTrue(message.endswith(f" (see 'twistd {command} --help')"))
    test.assertEqual(len(message.splitlines()), 1)
