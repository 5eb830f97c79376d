"""
Tests for L{portlisten._control.messages}.
"""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from portlisten._control import messages
from portlisten._control.convert import ControlError
from portlisten._control.messages import (
    Allow,
    AllowAnswer,
    Allowed,
    Answer,
    DenialsAnswer,
    Deny,
    Drain,
    ListDenials,
    ProgressAnswer,
    Request,
    Restart,
    Status,
    StatusAnswer,
    Stop,
    StopAnswer,
    Undrain,
    Watch,
    Workers,
    WorkersAnswer,
    encodeAnswer,
    encodeError,
    encodeRequest,
    parseAnswer,
    parseRequest,
)
from portlisten._control.status import (
    DenialStatus,
    DeniedStatus,
    QueueStatus,
    SourceStatus,
    State,
    WorkerState,
)
from tests.support.settings import SETTINGS
from tests.support.statuses import WELL

WORKER = WorkerState(
    "worker 3 (web-1, pid 12, uid 7)", "web-1", 12, 7, 4, 2, State.DRAINING
)

REQUESTS = [
    Workers(),
    Drain(("web-1", "12")),
    Undrain(("h\u00e9 \n",)),
    Status(),
    Restart(),
    Restart(("web", "api")),
    Watch(("7",)),
    Stop(),
    Deny(("192.0.2.7", "2001:db8::/32")),
    Deny(("192.0.2.7",), ("600",)),
    Allow(("192.0.2.7",)),
    ListDenials(),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3)
    ),
    max_leaves=4,
)


class NumberTests(SynchronousTestCase):
    """
    Tests for numbers in answers.
    """

    def test_wrong(self) -> None:
        """
        A number that nobody can compute with is refused.
        """

        def answers(number: str) -> list[tuple[bytes, type[Answer]]]:
            step = f'{{"old": "", "new": "", "state": "done", "seconds": {number}}}'
            progress = f'{{"id": "", "what": "", "done": true, "steps": [{step}]}}'
            return [
                (b'{"version": 1, "pid": %s}' % number.encode(), StopAnswer),
                (f'{{"version": 1, "progress": {progress}}}'.encode(), ProgressAnswer),
            ]

        for line, kind in answers("1"):
            self.assertIsInstance(parseAnswer(line, kind), kind)
        for text in ("NaN", "Infinity", "-Infinity", "1" + "0" * 400, '"1"', "true"):
            for line, kind in answers(text):
                self.assertRaises(ControlError, parseAnswer, line, kind)


class OlderTests(SynchronousTestCase):
    """
    Tests for answers of older versions.
    """

    def test_status(self) -> None:
        """
        An older listener says nothing of limits.
        """
        made = json.loads(encodeAnswer(WELL))
        del made["listener"]["sources"], made["listener"]["denied"]
        for each in made["listener"]["queues"]:
            del each["limited"]
        self.assertEqual(parseAnswer(json.dumps(made).encode(), StatusAnswer), WELL)

    def test_limits(self) -> None:
        """
        What a listener of this version says of limits arrives as it was.
        """
        assert WELL.listener is not None
        listener = replace(
            WELL.listener,
            queues=(QueueStatus("http", 0, 0, 0.0, 9, 1, limited={"rate": 2}),),
            sources=(SourceStatus("192.0.2.7", 1, 2, 3),),
            denied=DeniedStatus(
                2, (DenialStatus("192.0.2.7", 1.5), DenialStatus("2001:db8::/32"))
            ),
        )
        for answer in (
            StatusAnswer(listener),
            DenialsAnswer(7, listener.denied.networks),
            AllowAnswer((Allowed("192.0.2.7", False, "192.0.2.0/24", True),)),
        ):
            self.assertEqual(parseAnswer(encodeAnswer(answer), type(answer)), answer)


class RequestTests(SynchronousTestCase):
    """
    Tests for requests.
    """

    def refusal(self, message: object) -> str:
        """
        Say why a request is refused.
        """
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        return str(self.assertRaises(ControlError, parseRequest, line))

    def test_roundTrip(self) -> None:
        """
        A request is one line, which is read as the same request.
        """
        for request in REQUESTS:
            line = encodeRequest(request)
            self.assertEqual(line.count(b"\n"), 1)
            self.assertTrue(line.endswith(b"\n"))
            self.assertEqual(parseRequest(line), request)

    def test_document(self) -> None:
        """
        The text of a request is as the document has it.
        """
        self.assertEqual(
            encodeRequest(Drain(("web-1", "5690"))),
            b'{"version": 1, "command": "drain", "workers": ["web-1", "5690"]}\n',
        )

    def test_notJSON(self) -> None:
        """
        A line that is no JSON object is refused.
        """
        for line in (b"", b"drain", b"\xff", b"[" * 60000, b"1" * 60000, b"{"):
            self.assertEqual(self.refusal(line), "the request is no JSON")
        for line in (b"[]", b"1", b'"drain"', b"null"):
            self.assertEqual(self.refusal(line), "the request is no JSON object")

    def test_repeated(self) -> None:
        """
        A field that comes twice is refused: two readers could take different ones.
        """
        line = b'{"version": 1, "command": "workers", "command": "drain"}'
        self.assertEqual(self.refusal(line), "a field comes twice")

    def test_version(self) -> None:
        """
        Another version is refused, and so is none.
        """
        for version in (None, 0, 2, "1", 1.0, True, [1]):
            self.assertIn(
                f"the request has the version {json.dumps(version)}, and only 1 is",
                self.refusal({"version": version, "command": "workers"}),
            )
        self.assertIn("version null", self.refusal({"command": "workers"}))

    def test_command(self) -> None:
        """
        An unknown command is refused, with the known ones.
        """
        wrong: list[object] = [None, "halt", 3, ["drain"], {}]
        for command in wrong:
            self.assertEqual(
                self.refusal({"version": 1, "command": command}),
                f"unknown command {json.dumps(command)}: there are workers, drain,"
                " undrain, status, restart, reload, compare, upgrade, progress, stop,"
                " pause, resume, deny, allow, denials, replace",
            )

    def test_longCommand(self) -> None:
        """
        A refusal does not repeat a long text.
        """
        self.assertLess(len(self.refusal({"version": 1, "command": "x" * 60000})), 250)

    def test_fields(self) -> None:
        """
        A field that is not known is refused, and so is one that is missing or wrong.
        """
        drain = {"version": 1, "command": "drain"}
        self.assertEqual(
            self.refusal({**drain, "workers": ["a"], "now": 1}),
            'drain has no field "now"',
        )
        needs = "drain needs workers: a list of strings, at least one"
        for wrong in (None, [], "a", [1], ["a", None], {"a": 1}, 7):
            self.assertEqual(self.refusal({**drain, "workers": wrong}), needs)
        self.assertEqual(self.refusal(drain), needs)

    @SETTINGS
    @given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
    def test_anything(self, line: bytes) -> None:
        """
        Any bytes are a request or are refused, in one line.
        """
        self.check(line)

    def check(self, line: bytes) -> None:
        """
        Check that a line is a request, or is refused in one line.
        """
        try:
            self.assertIsInstance(parseRequest(line), Request)
        except ControlError as error:
            self.assertEqual(len(str(error).splitlines()), 1)

    @SETTINGS
    @given(st.dictionaries(st.sampled_from(["workers", "x", "command"]), JSON))
    def test_anyField(self, fields: dict[str, object]) -> None:
        """
        So are messages whose fields are nearly right.
        """
        message = {"command": "drain", **fields, "version": 1}
        self.check(json.dumps(message).encode())


class AnswerTests(SynchronousTestCase):
    """
    Tests for answers.
    """

    def refusal(self, message: object) -> str:
        """
        Say why an answer cannot be understood.
        """
        line = json.dumps({"version": 1, **message}).encode()  # type: ignore[dict-item]
        return str(self.assertRaises(ControlError, parseAnswer, line, WorkersAnswer))

    def test_roundTrip(self) -> None:
        """
        An answer is one line, which is read as the same answer.
        """
        workers = [replace(WORKER, state=state) for state in State]
        for answer in (
            WorkersAnswer(),
            WorkersAnswer((*workers, replace(WORKER, serving=None, label=""))),
        ):
            line = encodeAnswer(answer)
            self.assertEqual(line.count(b"\n"), 1)
            self.assertEqual(parseAnswer(line, WorkersAnswer), answer)

    def test_error(self) -> None:
        """
        An error is raised with its text, of which a terminal takes nothing for a
        command.
        """
        error = self.assertRaises(
            ControlError, parseAnswer, encodeError("no\x1b[2J\n!"), WorkersAnswer
        )
        self.assertEqual(str(error), "no?[2J?!")

    def test_names(self) -> None:
        """
        So it is with the names of workers.
        """
        answer = WorkersAnswer((replace(WORKER, name="a\x1bb\nc", label="\x07"),))
        (worker,) = parseAnswer(encodeAnswer(answer), WorkersAnswer).workers
        self.assertEqual((worker.name, worker.label), ("a?b?c", "?"))

    def test_later(self) -> None:
        """
        Fields that a later version adds are ignored.
        """
        message = json.loads(encodeAnswer(WorkersAnswer((WORKER,))))
        message["more"] = message["workers"][0]["more"] = 1
        answer = parseAnswer(json.dumps(message).encode(), WorkersAnswer)
        self.assertEqual(answer, WorkersAnswer((WORKER,)))

    def test_wrong(self) -> None:
        """
        An answer that does not fit is refused.
        """
        self.assertEqual(self.refusal({}), "the answer has no list of workers")
        (right,) = json.loads(encodeAnswer(WorkersAnswer((WORKER,))))["workers"]
        wrong: list[object] = [1, [1]]
        for name, value in [
            ("name", 1),
            ("label", None),
            ("pid", "1"),
            ("uid", True),
            ("connections", 1.5),
            ("serving", "0"),
            ("state", 1),
            ("state", "asleep"),
        ]:
            wrong.append([{**right, name: value}])
            wrong.append([{key: each for key, each in right.items() if key != name}])
        for workers in wrong:
            self.assertEqual(
                self.refusal({"workers": workers}), "the answer is no WorkersAnswer"
            )


class WorkerStateTests(SynchronousTestCase):
    """
    Tests for L{WorkerState}.
    """

    def test_isNamed(self) -> None:
        """
        A worker is named by its label and by its process's number.
        """
        self.assertTrue(WORKER.isNamed(["x", "web-1"]))
        self.assertTrue(WORKER.isNamed(["12"]))
        for word in ("web", "1", "7", "worker 3", ""):
            self.assertFalse(WORKER.isNamed([word]), word)

    def test_nothing(self) -> None:
        """
        A worker without a label and with an unknown process is named by nothing.
        """
        worker = replace(WORKER, label="", pid=0)
        self.assertFalse(worker.isNamed(["", "0"]))

    def test_left(self) -> None:
        """
        What is left is what the listener knows and what the worker reports.
        """
        self.assertEqual(WORKER.left, 6)
        self.assertEqual(replace(WORKER, serving=None).left, 4)


class PureTests(SynchronousTestCase):
    """
    The messages need no system, so any program can use them.
    """

    def test_imports(self) -> None:
        """
        The module imports nothing that acts.
        """
        tree = ast.parse(Path(messages.__file__).read_text("utf-8"))
        imported = {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        self.assertEqual(
            imported - {"__future__", "collections.abc", "dataclasses", "typing"},
            {"portlisten._control.convert", "portlisten._control.status"},
        )
