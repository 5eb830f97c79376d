"""
The form of commands' messages.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import TestCase

from twisted.trial.unittest import SynchronousTestCase

from portlisten.errors import EndpointError


def assertOneLine(test: TestCase, command: str, message: str) -> None:
    """
    Check the form of a message that refuses arguments.
    """
    test.assertTrue(message.startswith(f"{command}: "))
    test.assertTrue(message.endswith(f" (see 'twistd {command} --help')"))
    test.assertEqual(len(message.splitlines()), 1)


def commandRefusal(
    test: SynchronousTestCase,
    command: str,
    parse: Callable[..., object],
    *arguments: str,
) -> str:
    """
    Get the line with which a command refuses its arguments, and check its form.
    """
    exit = test.assertRaises(SystemExit, parse, *arguments)
    message = str(exit.code)
    assertOneLine(test, command, message)
    return message


def endpointRefusal(
    test: SynchronousTestCase, call: Callable[..., object], *arguments: object
) -> str:
    """
    Get the line with which an endpoint is refused, and check its form.
    """
    error = test.assertRaises(EndpointError, call, *arguments)
    test.assertTrue(str(error).startswith("portlisten: "))
    test.assertEqual(len(str(error).splitlines()), 1)
    return str(error)
