"""
How Sphinx builds these pages; C{.ci/docs} runs it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import portlisten
from docs.inventories import write

_root = Path(__file__).parents[1]

project = "portlisten"
author = "the portlisten authors"
copyright = "the portlisten authors, under the MIT licence"
version = release = portlisten.__version__
language = "en-GB"

extensions = [
    "myst_parser",
    "sphinx.ext.intersphinx",
    "pydoctor.sphinx_ext.build_apidocs",
]
exclude_patterns = ["_build"]
nitpicky = True

# protocol.md links to its own headings, down to the third level.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = f"portlisten {version}"
html_show_sphinx = False

# Names are looked up in lists made from what is installed: see inventories.py.
_external = write(_root / "portlisten", _root / "build" / "inventories")
intersphinx_mapping = {
    site: (url, str(path)) for site, (url, path) in _external.items()
}

pydoctor_url_path = "api/"
pydoctor_args = [
    "--html-output={outdir}/api",
    "--docformat=epytext",
    "--theme=readthedocs",
    "--project-name=portlisten",
    f"--project-version={version}",
    "--project-url=../index.html",
    f"--project-base-dir={_root}",
    *(f"--intersphinx-file={path}::{url}" for url, path in _external.values()),
    str(_root / "portlisten"),
]
