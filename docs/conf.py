"""Sphinx settings. Build: pip install -c constraints.txt -e '.[docs]' && sphinx-build -b html docs docs/_build/html

DISTILL_DOCS_EXECUTE=cache (or force) runs the tutorials while building; a failing cell then stops the build.
A plain build runs nothing: the tests run the same cells, in a smaller setting.
"""

import os

import distill

project = "distill"
author = "the authors of distill"
release = version = distill.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_title = "distill"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Links out of docs/ are for readers of the repository; tests/docs checks every link.
suppress_warnings = ["myst.xref_missing"]

nb_execution_mode = os.environ.get("DISTILL_DOCS_EXECUTE", "off")
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # seconds for one cell

autodoc_typehints = "description"  # types live in annotations only
autodoc_member_order = "bysource"
