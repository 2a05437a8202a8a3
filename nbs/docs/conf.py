"Sphinx's settings; build.py prepares what it reads."
from configparser import ConfigParser
from pathlib import Path

root = next(p for p in Path(__file__).resolve().parents if (p / "settings.ini").exists())
settings = ConfigParser(delimiters=["="])
settings.read(root / "settings.ini", encoding="utf-8")

project = settings["DEFAULT"]["lib_name"]
author = settings["DEFAULT"]["author"]
version = settings["DEFAULT"]["version"]
copyright = f"{settings['DEFAULT']['copyright']}. {settings['DEFAULT']['license'].upper()} licence"
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_static"]

nb_execution_mode = "off"  # outputs are those saved in the notebooks
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_ipywidgets_js = {"html-manager/embed.js": {}}  # vendored, as MathJax is: the pages open without a network
mathjax_path = "mathjax/tex-chtml.js"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["simseg.css"]
html_js_files = ["simseg.js"]
html_search_scorer = str(Path(__file__).parent / "scorer.js")
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
