"""
The worker that docs/protocol.md shows works.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.support.asking import askMany
from tests.support.asynchronous import asynchronous
from tests.support.programs import command
from tests.support.spawned import Start, listening

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


@asynchronous
async def test_workerInDocument(twistd: Start, start: Start, folder: Path) -> None:
    """
    The worker that the document ends with joins, serves, leaves and comes back when it
    is asked to, survives its listener, and stops in good order.
    """
    (source,) = re.findall(
        r"^```python$(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    folder.joinpath("worker.py").write_text(source)
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    worker = start(sys.executable, "worker.py", "./socket", "hello")
    await listener.says("joined")
    answers, _ = await askMany(port, 300, 16)
    assert answers == [b"hello"] * 300
    for name in ("drain", "undrain"):
        operator = start(command("portlisten"), name, "./socket", str(worker.pid))
        assert await operator.ended() == 0, operator.output
    answers, _ = await askMany(port, 100, 16)
    assert answers == [b"hello"] * 100
    await listener.kill()
    listener = twistd("portlisten", "0", "./socket")
    port = await listening(listener)
    await listener.says("joined")
    answers, _ = await askMany(port, 100, 16)
    assert answers == [b"hello"] * 100
    assert await worker.stop() == 0
    await listener.says("it says: the worker stops")
    assert await listener.stop() == 0
