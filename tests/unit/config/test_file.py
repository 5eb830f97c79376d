"""
Tests for L{portlisten._config.file}.
"""

from twisted.trial.unittest import SynchronousTestCase

from portlisten._config.file import WorkersSettings


class CommandTests(SynchronousTestCase):
    """
    Tests for L{WorkersSettings.commandFor}.
    """

    def test_placeholders(self) -> None:
        """
        What stands in braces is replaced, and other braces stay.
        """
        workers = WorkersSettings(
            name="web",
            command=(
                "serve",
                "{path}:name={name}",
                "--label={label}",
                "{}",
                "${other}",
                "{{path}}",
            ),
        )
        self.assertEqual(
            workers.commandFor("/run/{label}", "web-1"),
            [
                "serve",
                "/run/{label}:name=web",
                "--label=web-1",
                "{}",
                "${other}",
                "{path}",
            ],
        )
