"""How Sphinx builds the documentation site; `make docs` calls it.

The source folder is the repository: the notebooks, the changelog and the benchmarks' README are
pages where they are, so that a link between two files works in a checkout and on the site.
"""

import re

import keras_freeze

project = "keras_freeze"
author = copyright = "The keras_freeze authors"
version = release = keras_freeze.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "notebooks/*.ipynb",
    "benchmarks/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "build", "dist", "keras_freeze", "tests", "demo-output"]

# Pages ----------------------------------------------------------------------------------

myst_heading_anchors = 3  # a link may name a heading, as on the hosts of repositories
nb_execution_mode = "off"  # the notebooks are committed with their outputs, which tests compare
nitpicky = True

# The reference --------------------------------------------------------------------------

# Docstrings name the types, as Keras's do, and put code into single backticks.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "code"
napoleon_attr_annotations = False
napoleon_custom_sections = ["Reference"]
nitpick_ignore_regex = [("py:.*", r"(abc|keras|keras_tuner|matplotlib)\..*")]

MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")


def as_restructured_text(app, what, name, obj, options, lines):
    """Turn what docstrings hold of Markdown into what napoleon and Sphinx read."""
    for n, line in enumerate(lines):
        lines[n] = MARKDOWN_LINK.sub(r"`\1 <\2>`__", line)
        if lines[n - 1] == "Returns:":  # else napoleon takes all before a colon for a type
            lines[n] = f"    : {line.strip()}"


def setup(app):
    """Connect the above before napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)


# Appearance -----------------------------------------------------------------------------

html_theme = "furo"
html_title = f"keras_freeze {release}"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_extra_path = ["root"]  # an index.html that leads to docs/index.html
html_copy_source = False
