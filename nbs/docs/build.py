"""Build the docs site: python nbs/docs/build.py, or make docs.

Notebooks go through nbdev's processors (all but those that write for Quarto), exported functions become
Sphinx's own objects with a table of their docments, and Sphinx does the rest. Everything lands in _docs/;
_docs/html opens from disk, without a network.
"""
import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import tarfile
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import yaml
from execnb.nbio import read_nb
from fastcore.docments import docments
from nbdev import processors
from nbdev.config import get_config
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "nbs"
OUT = ROOT / "_docs"
SOURCE = OUT / "source"
HTML = OUT / "html"
VENDOR = OUT / "vendor"
FOR_QUARTO = ["FrontmatterProc", "insert_warning", "clean_show_doc", "exec_show_docs", "add_fold", "mv_exports"]
WIDGETS = "application/vnd.jupyter.widget-view+json"
# What the pages need of npm, by package and version, and which of its files.
PACKAGES = {
    "mathjax@3.2.2": ("mathjax", r"es5/(tex-chtml\.js|output/chtml/fonts/woff-v2/.*)"),
    "@jupyter-widgets/html-manager@1.0.15": ("html-manager", r"dist/(embed\.js|[0-9a-f]{20}\.(woff2?|ttf|eot|svg))"),
}
# The navigation, by caption; a page that it does not name comes last.
GROUPS = {
    "Start here": ["tutorials/start", "tutorials/own_data", "tutorials/pretrain_and_look", "tutorials/explore"],
    "How to": ["tutorials/reading_a_report", "tutorials/gpu", "tutorials/cluster", "tutorials/adding", "predict", "command"],
    "Results": ["tutorials/findings", "tutorials/results", "latest_report"],
    "Stages": ["data", "augmentations", "simclr", "consistency", "unet", "evaluation", "study", "report"],
    "Reference": ["api", "core", "run", "masks", "figures", "synthetic", "transfer", "statistics", "compare", "verdict",
                  "speed", "explore", "batch"],
}


# Functions and classes

def escape(text: str) -> str:
    "Prose of a docment as Markdown: what stands in backticks stays, signs that would be markup are none."
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([$<>*_\[\]])", r"\\\1", prose) for prose in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def type_name(annotation) -> str:
    if annotation is inspect.Parameter.empty or annotation is None: return ""
    return "`" + re.sub(r"\b(\w+\.)+(?=\w)", "", inspect.formatannotation(annotation)).replace("|", "\\|") + "`"


def undocumented_notes(symbol) -> tuple[str, str]:
    "Notes that docments does not see: a `**keyword`'s, which it gives to what is returned; a return's without a type."
    source = inspect.getsource(symbol)
    keywords = re.search(r"\*\*\w+, *# (.*)", source, re.M)
    returned = re.search(r"^ *\):  # (.*)", source, re.M)
    return keywords[1] if keywords else "", returned[1] if returned else ""


def parameter_row(name: str, found: dict, note: str) -> str:
    "A row of the table: name, type, default and note."
    default = found.get("default", inspect.Parameter.empty)
    shown = "" if default is inspect.Parameter.empty or name == "return" else f"`{default!r}`".replace("|", "\\|")
    label = f"`{name}`"
    if name == "return": label = "**yields**" if note.startswith("yields ") else "**returns**"
    return f"| {label} | {type_name(found.get('anno'))} | {shown} | {escape(note.removeprefix('yields '))} |"


def parameter_table(symbol) -> str:
    "The docments of a function, or of a class's `__init__` or fields: a row a parameter, and what is returned."
    keywords, returned = undocumented_notes(symbol)
    rows = []
    noted = False
    for name, found in docments(symbol, full=True, returns=not inspect.isclass(symbol)).items():
        note = found.get("docment") or ""
        if found.get("kind") == inspect.Parameter.VAR_KEYWORD: note = keywords
        elif name == "return" and note in ("", keywords): note = returned
        if name == "self" or (name == "return" and not note): continue
        noted = noted or bool(note)
        rows.append(parameter_row(name, found, note))
    if not noted: return ""  # the signature says as much
    table = "\n".join(["| parameter | type | default | |", "|---|---|---|---|", *rows])
    return f"<details>\n<summary>parameters</summary>\n\n{table}\n\n</details>"


def signature(symbol) -> str:
    "Names and defaults; the types are in the table."
    if inspect.isclass(symbol) and issubclass(symbol, Exception): return ""  # Python's own, which has none
    given = inspect.signature(symbol)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in given.parameters.values() if p.name != "self"]
    return str(given.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def document(symbol, module: str, kind: str = "", colons: int = 4) -> str:
    "A symbol as a Sphinx object, a class with its methods."
    kind = kind or ("class" if inspect.isclass(symbol) else "function")
    name = symbol.__qualname__
    doc = inspect.getdoc(symbol) or ""
    if doc.startswith(f"{name}("): doc = ""  # a dataclass's own is its signature
    parts = [escape(doc), parameter_table(symbol)]
    if kind == "class":
        functions = [m for m in vars(symbol).values() if inspect.isfunction(m)]
        methods = [m for m in functions if m.__doc__ and not m.__name__.startswith("_")]
        parts += [document(method, module, "method", colons - 1) for method in methods]
    fence = ":" * colons
    body = "\n\n".join(part for part in parts if part)
    return f"{fence}{{py:{kind}}} {name}{signature(symbol)}\n:module: {module}\n\n{body}\n{fence}"


# Notebooks

class Pages(processors.FilterDefaults):
    "nbdev's processors, less those for Quarto."
    def base_procs(self): return [p for p in super().base_procs() if p.__name__ not in FOR_QUARTO]


def page_name(path: Path) -> str:  # "simclr", "tutorials/start"
    "Where a notebook's page is in the site."
    return str(path.relative_to(NOTEBOOKS).with_name(re.sub(r"^\d+[a-z]?_", "", path.stem)))


def linked(text: str, page: str) -> str:
    "nbdev's links to its own site, as links to Sphinx's objects; and a notebook's name as a link to its page."
    config = get_config()
    site = re.escape(f"{config.doc_host}{config.doc_baseurl}".rstrip("/"))
    text = re.sub(rf"\[`([^`]+)`\]\({site}/(\w+)\.html#([\w.]+)\)", r"{py:obj}`\1 <simseg.\2.\3>`", text)
    up = "../" * page.count("/")

    def link(found) -> str:
        path = NOTEBOOKS / f"{found[1]}.ipynb"
        return f"[`{found[1]}`]({up}{page_name(path)}.ipynb)" if path.exists() else found[0]

    return re.sub(r"`(\d\d[a-z]?_\w+|tutorials/\w+)`", link, text)


def with_directives(cell) -> None:
    "Quarto's cell options, where we use them, as myst-nb's: alt texts, and cells left out of the site."
    options = dict(re.findall(r"^#\| *([\w-]+): *(.*)$", cell.source, re.M))
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    if "fig-alt" in options: cell.metadata["mystnb"] = {"image": {"alt": options["fig-alt"]}}
    figure = any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))
    only_imports = all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in ast.parse(cell.source).body)
    if options.get("include") == "false" or (only_imports and not cell.outputs):
        cell.metadata["tags"] = ["remove-cell"]
    elif figure and "fig-alt" not in options:
        raise SystemExit(f"A figure has no alt text; begin its cell with `#| fig-alt: …`:\n{cell.source}")


def open_notebook(path: Path):
    "A notebook as nbdev's processors leave it. A stage's parameters are exported, and stay in sight all the same."
    notebook = read_nb(path)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []): cell.source = cell.source.removeprefix("#| export\n")
    Pages()(notebook)
    return notebook


def module_of(path: Path) -> str | None:
    "The module that a notebook is exported to; a tutorial has none."
    found = re.search(r"^#\| default_exp (\w+)$", "\n".join(cell.source for cell in read_nb(path).cells), re.M)
    return f"simseg.{found[1]}" if found else None


def without_quotation(text: str) -> str:
    "The summary below a title as plain prose."
    return re.sub(r"\A(# .*\n+)> (.*(?:\n> .*)*)", lambda found: found[1] + found[2].replace("\n> ", "\n"), text)


def make_cell(cell, module: str | None, page: str):
    "A cell of a page: an exported function as Sphinx's object, prose with its links, code with its outputs."
    shown = re.match(r"show_doc\((\w+)\)$", cell.source)
    if cell.cell_type == "code" and shown:
        return nbformat.v4.new_markdown_cell(document(getattr(importlib.import_module(module), shown[1]), module))
    if cell.cell_type == "markdown":
        return nbformat.v4.new_markdown_cell(linked(without_quotation(cell.source), page))
    outputs = nbformat.from_dict(json.loads(json.dumps(cell.outputs)))
    code = nbformat.v4.new_code_cell(cell.source, id=cell.id, outputs=outputs)
    with_directives(code)
    return code


def make_page(path: Path) -> str:
    "One notebook to SOURCE; returns the page's name."
    page = page_name(path)
    module = module_of(path)
    notebook = open_notebook(path)
    cells = [nbformat.v4.new_markdown_cell(f"```{{py:module}} {module}\n```")] if module else []
    cells += [make_cell(cell, module, page) for cell in notebook.cells if cell.source]
    kept = ["kernelspec"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    if any(WIDGETS in output.get("data", {}) for output in outputs): kept.append("widgets")
    metadata = {key: notebook.metadata[key] for key in kept if key in notebook.metadata}
    write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), page)
    return page


def write(notebook, page: str):
    path = SOURCE / f"{page}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def make_home(pages: list[str]):
    "The contents go behind the README's text. `pages` are those that were made."
    home = nbformat.read(SOURCE / "index.ipynb", as_version=4)
    for cell in home.cells:
        if cell.cell_type == "code": cell.metadata["tags"] = ["remove-input", *cell.metadata.get("tags", [])]
    grouped = [page for group in GROUPS.values() for page in group]
    groups = {caption: [page for page in group if page in pages] for caption, group in GROUPS.items()}
    groups["Reference"] += [page for page in pages if page not in grouped]
    for caption, group in groups.items():
        tree = "\n".join([f"```{{toctree}}\n:hidden:\n:caption: {caption}\n", *group, "```"])
        home.cells.append(nbformat.v4.new_markdown_cell(tree))
    write(home, "index")


def make_api(modules: list[str]):
    "Every function and class, by module in the order of the notebooks, with the first sentence of its docstring."
    lines = ["# API", "", "Every function and class; a name leads to its parameters and its source."]
    for name in modules:
        module = importlib.import_module(name)
        symbols = [vars(module)[symbol] for symbol in module.__all__]
        lines += ["", f"## {name}", "", f"{module.__doc__ or ''}.", "", "| | |", "|---|---|"]
        for symbol in symbols:
            if not (inspect.isfunction(symbol) or inspect.isclass(symbol)): continue
            sentence = (inspect.getdoc(symbol) or "").split("\n")[0]
            lines.append(f"| {{py:obj}}`{symbol.__name__} <{name}.{symbol.__name__}>` | {escape(sentence)} |")
    (SOURCE / "api.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def of_real_images(report: Path) -> bool:
    "Whether a report's study was fine-tuned on anything but drawn images."
    study = report.parent / "study.yaml"
    if not study.exists(): return False
    dataset = yaml.safe_load(study.read_text(encoding="utf-8"))["unet"].get("dataset", "synthetic")
    return not dataset.startswith(("synthetic", "outputs/tutorial"))


def latest_report() -> Path | None:
    "The report of the study of real images that ran last in this checkout, if any."
    reports = sorted(ROOT.glob("outputs/*/report.ipynb"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next(filter(of_real_images, reports), None)


def make_report(report: Path):
    "What follows the parameters in a study's report, without its code."
    executed = nbformat.read(report, as_version=4)
    tags = [set(cell.metadata.get("tags", [])) for cell in executed.cells]
    last = max(i for i, found in enumerate(tags) if found & {"parameters", "injected-parameters"})
    title = f"# Latest report\n\nThe study `{report.parent.name}`, as `14_report` reported it."
    cells = [nbformat.v4.new_markdown_cell(linked(title, "latest_report"))]
    for cell in executed.cells[last + 1:]:
        if cell.cell_type == "code":
            with_directives(cell)
            cell.metadata["tags"] = ["remove-input", *cell.metadata.get("tags", [])]
        cells.append(cell)
    write(nbformat.v4.new_notebook(cells=cells), "latest_report")


# Assets, Sphinx, and a look at the result

def packed(package: str) -> Path:
    "An npm package as a file, kept in _docs/vendor."
    kept = VENDOR / f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"  # the name that npm gives it
    if kept.exists(): return kept
    if not shutil.which("npm"):
        raise SystemExit("make docs needs npm, for MathJax and for saved widgets; install Node.js.")
    subprocess.run(["npm", "pack", "--silent", package], cwd=VENDOR, check=True, stdout=subprocess.DEVNULL)
    return kept


def vendor(into: Path):
    "MathJax, and the library that shows saved widgets, from npm."
    VENDOR.mkdir(parents=True, exist_ok=True)
    for package, (name, wanted) in PACKAGES.items():
        with tarfile.open(packed(package)) as archive:
            for member in archive.getmembers():
                if not re.fullmatch(f"package/{wanted}", member.name): continue
                target = into / name / re.sub(r"^package/(es5|dist)/", "", member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())


class Page(HTMLParser):
    "What a page links to, loads, and can be linked at."

    def __init__(self, text: str):
        super().__init__()
        self.links = []
        self.loads = []
        self.ids = {"top"}
        self.without_alt = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        address = found.get("href")
        if "id" in found: self.ids.add(found["id"])
        if tag == "a" and address: self.links.append(address)
        if tag == "link" and address and found.get("rel") != "canonical": self.loads.append(address)
        if tag in ("script", "img", "iframe", "source") and found.get("src"): self.loads.append(found["src"])
        if tag == "img" and not found.get("alt", "").strip(): self.without_alt += 1


def check_address(address: str, path: Path, pages: dict) -> str:
    "What is wrong with a link of a page; empty where nothing is."
    url = urllib.parse.urlsplit(address)
    if url.scheme or url.netloc: return ""
    target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
    if not target.is_file(): return f"{address} leads nowhere"
    if not url.fragment or target not in pages: return ""
    return "" if urllib.parse.unquote(url.fragment) in pages[target].ids else f"{address} has no such anchor"


def check_page(path: Path, pages: dict) -> list[str]:
    "What is wrong with a page: figures without a text, weight, anything loaded from a network, dead links."
    page = pages[path]
    wrong = []
    if page.without_alt: wrong.append(f"{page.without_alt} figures have no alt text")
    if path.stat().st_size > 3e6: wrong.append(f"{path.stat().st_size / 1e6:.1f} MB")
    wrong += [f"loads {address}" for address in page.loads if address.startswith(("http:", "https:"))]
    wrong += [check_address(address, path, pages) for address in page.links + page.loads]
    return [what for what in wrong if what]


def check_site(html: Path) -> list[str]:
    "A line for everything that is wrong with the pages."
    paths = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    return [f"{path.relative_to(html)}: {what}" for path in pages for what in check_page(path, pages)]


def main():
    for folder in (SOURCE, HTML): shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(NOTEBOOKS / "docs", SOURCE, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    vendor(SOURCE / "_static")
    notebooks = [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted(NOTEBOOKS.glob("tutorials/*.ipynb"))]
    pages = [make_page(path) for path in notebooks]
    pages.remove("index")
    make_api([module for module in map(module_of, notebooks) if module])
    report = latest_report()  # where there is none, tutorials/results shows those that came with the repository
    if report: make_report(report)
    make_home([*pages, "api", *(["latest_report"] if report else [])])
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-d", str(OUT / "doctrees")]
    code = sphinx([*options, str(SOURCE), str(HTML)])
    if code: raise SystemExit(code)
    wrong = check_site(HTML)
    if wrong: raise SystemExit("\n".join(wrong))
    print(f"The docs are in {HTML / 'index.html'}")


if __name__ == "__main__": main()
