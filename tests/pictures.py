"""
The pictures of the status page: C{python -m tests.pictures}.

The test of the page makes them, with Chromium, and its clients come for some minutes.
If C{pngquant} is installed, the pictures get fewer colours, which makes them small.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: The pictures that the documents show.
SHOWN = (
    "status-well.png",
    "status-well-phone-dark.png",
    "status-died.png",
    "status-queue.png",
)


def main() -> None:
    """
    Do what the command line says.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.pictures",
        description="Make the pictures of the status page. It takes three minutes.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=ROOT / "docs" / "pictures",
        help="where the pictures go [docs/pictures]",
    )
    folder: Path = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as made:
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                str(ROOT / "tests" / "integration" / "test_status_page.py"),
            ],
            env={**os.environ, "PORTLISTEN_PICTURES": made},
            check=True,
        )
        quantize = shutil.which("pngquant")
        for name in SHOWN:
            if quantize is None:
                shutil.copy(Path(made, name), folder / name)
            else:
                output = ["--force", "--output", str(folder / name)]
                words = [quantize, "64", *output, str(Path(made, name))]
                subprocess.run(words, check=True)
            print(f"{folder / name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
