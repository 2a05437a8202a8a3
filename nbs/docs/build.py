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
OUT, SOURCE, HTML, VENDOR = (ROOT / "_docs" / part for part in ("", "source", "html", "vendor"))
FOR_QUARTO = ["FrontmatterProc", "insert_warning", "clean_show_doc", "exec_show_docs", "add_fold", "mv_exports"]
# What the pages need of npm, by package and version, and which of its files.
PACKAGES = {"mathjax@3.2.2": ("mathjax", r"es5/(tex-chtml\.js|output/chtml/fonts/woff-v2/.*)"),
            "@jupyter-widgets/html-manager@1.0.15": ("html-manager", r"dist/(embed\.js|[0-9a-f]{20}\.(woff2?|ttf|eot|svg))")}
GROUPS = {"Stages": ["core", "data", "augmentations", "simclr", "unet", "evaluation", "statistics", "study"], "Use it": ["explore", "predict", "tutorial"]}


# Functions and classes

def escape(text: str) -> str:
    "Prose of a docment as Markdown: what stands in backticks stays, signs that would be markup are none."
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if i % 2 else re.sub(r"([$<>*_\[\]])", r"\\\1", part) for i, part in enumerate(parts)).replace("|", "\\|")


def type_name(annotation) -> str:
    if annotation is inspect.Parameter.empty or annotation is None: return ""
    return "`" + re.sub(r"\b(\w+\.)+(?=\w)", "", inspect.formatannotation(annotation)).replace("|", "\\|") + "`"


def parameter_table(symbol) -> str:
    "The docments of a function, or of a class's `__init__` or fields: a row a parameter, and what is returned."
    empty, rows = inspect.Parameter.empty, []
    # two notes that docments does not see: a `**keyword`'s, which it gives to what is returned, and one on a return without a type
    keywords, returned = (re.search(pattern, inspect.getsource(symbol), re.M) for pattern in (r"\*\*\w+, *# (.*)", r"^ *\):  # (.*)"))
    for name, d in docments(symbol, full=True, returns=not inspect.isclass(symbol)).items():
        note, default = d.get("docment") or "", d.get("default", empty)
        if d.get("kind") == inspect.Parameter.VAR_KEYWORD: note = keywords[1] if keywords else ""
        elif name == "return" and (not note or (keywords and note == keywords[1])): note = returned[1] if returned else ""
        if name == "self" or (name == "return" and not note): continue
        shown = "" if default is empty or name == "return" else f"`{default!r}`".replace("|", "\\|")
        label = f"`{name}`" if name != "return" else "**yields**" if note.startswith("yields ") else "**returns**"
        rows.append([label, type_name(d.get("anno")), shown, escape(note.removeprefix("yields "))])
    if not any(row[3] for row in rows): return ""  # the signature says as much
    return "\n".join("| " + " | ".join(row) + " |" for row in [["parameter", "type", "default", ""], ["---"] * 4, *rows])


def signature(symbol) -> str:
    "Names and defaults; the types are in the table."
    given = inspect.signature(symbol)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in given.parameters.values() if p.name != "self"]
    return str(given.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def document(symbol, module: str, kind: str = "", colons: int = 4) -> str:
    "A symbol as a Sphinx object, a class with its methods."
    kind = kind or ("class" if inspect.isclass(symbol) else "function")
    name = symbol.__qualname__
    doc = inspect.getdoc(symbol) if not getattr(symbol, "__doc__", "").startswith(f"{name}(") else ""  # a dataclass's own is its signature
    parts = [escape(doc or ""), parameter_table(symbol)]
    if kind == "class":
        methods = [m for m in vars(symbol).values() if inspect.isfunction(m) and not m.__name__.startswith("_") and m.__doc__]
        parts += [document(m, module, "method", colons - 1) for m in methods]
    fence = ":" * colons
    return f"{fence}{{py:{kind}}} {name}{signature(symbol)}\n:module: {module}\n\n" + "\n\n".join(filter(None, parts)) + f"\n{fence}"


# Notebooks

class Pages(processors.FilterDefaults):
    "nbdev's processors, less those for Quarto."
    def base_procs(self): return [p for p in super().base_procs() if p.__name__ not in FOR_QUARTO]


def linked(text: str) -> str:
    "nbdev's links to its own site, as links to Sphinx's objects; and a notebook's name as a link to its page."
    config = get_config()
    site = re.escape(f"{config.doc_host}{config.doc_baseurl}".rstrip("/"))
    text = re.sub(rf"\[`([^`]+)`\]\({site}/(\w+)\.html#([\w.]+)\)", r"{py:obj}`\1 <simseg.\2.\3>`", text)
    return re.sub(r"`(\d\d_(\w+))`", lambda m: f"[`{m[1]}`]({m[2]}.ipynb)" if (ROOT / "nbs" / f"{m[1]}.ipynb").exists() else m[0], text)


def with_directives(cell) -> None:
    "Quarto's cell options, where we use them, as myst-nb's: alt texts, and cells left out of the site."
    options = dict(re.findall(r"^#\| *([\w-]+): *(.*)$", cell.source, re.M))
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    if "fig-alt" in options: cell.metadata["mystnb"] = {"image": {"alt": options["fig-alt"]}}
    figure = any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))
    only_imports = all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in ast.parse(cell.source).body)
    if options.get("include") == "false" or (only_imports and not cell.outputs): cell.metadata["tags"] = ["remove-cell"]
    elif figure and "fig-alt" not in options: raise SystemExit(f"A figure has no alt text; begin its cell with `#| fig-alt: …`:\n{cell.source}")


def page_name(path: Path) -> str: return re.sub(r"^\d+_", "", path.stem)


def make_page(path: Path) -> str:
    "One notebook to SOURCE; returns the page's name."
    raw = read_nb(path)
    exported = [c for c in raw.cells if c.cell_type == "code" and c.source.startswith("#| default_exp")]
    module = f"simseg.{exported[0].source.split()[2]}" if exported else None
    Pages()(raw)
    cells = [nbformat.v4.new_markdown_cell(f"```{{py:module}} {module}\n```")] if module else []
    for cell in raw.cells:
        if not cell.source: continue
        if cell.cell_type == "code" and (shown := re.match(r"show_doc\((\w+)\)$", cell.source)):
            cell = nbformat.v4.new_markdown_cell(document(getattr(importlib.import_module(module), shown[1]), module))
        elif cell.cell_type == "markdown": cell = nbformat.v4.new_markdown_cell(re.sub(r"\A(# .*\n+)> (.*(?:\n> .*)*)", lambda m: m[1] + m[2].replace("\n> ", "\n"), linked(cell.source)))
        else:
            cell = nbformat.v4.new_code_cell(cell.source, id=cell.id, outputs=nbformat.from_dict(json.loads(json.dumps(cell.outputs))))
            with_directives(cell)
        cells.append(cell)
    metadata = {key: raw.metadata[key] for key in ("kernelspec", "widgets") if key in raw.metadata}
    write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), page_name(path))
    return page_name(path)


def write(notebook, name: str): nbformat.write(notebook, SOURCE / f"{name}.ipynb")


def make_home(names: list[str]):
    "The contents go behind the README's text."
    home = nbformat.read(SOURCE / "index.ipynb", as_version=4)
    for cell in home.cells:
        if cell.cell_type == "code": cell.metadata["tags"] = ["remove-input", *cell.metadata.get("tags", [])]
    rest = [n for n in names if n not in sum(GROUPS.values(), [])]
    groups = {**{title: [n for n in pages if n in names] for title, pages in GROUPS.items()}, "Reference": ["api", "report", *rest]}
    for title, pages in groups.items():
        home.cells.append(nbformat.v4.new_markdown_cell(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```"))
    write(home, "index")


def make_api(names: list[str]):
    "Every function and class, by module, with the first sentence of its docstring."
    lines = ["# API", "", "Every function and class; a name leads to its parameters and its source."]
    for name in [n for n in sum(GROUPS.values(), []) if n in names]:
        try: module = importlib.import_module(f"simseg.{name}")
        except ModuleNotFoundError: continue  # the tutorial has no module
        symbols = [vars(module)[s] for s in module.__all__]
        rows = [f"| {{py:obj}}`{s.__name__} <simseg.{name}.{s.__name__}>` | {escape((inspect.getdoc(s) or '').split(chr(10))[0])} |"
                for s in symbols if inspect.isfunction(s) or inspect.isclass(s)]
        lines += ["", f"## simseg.{name}", "", (module.__doc__ or "") + ".", "", "| | |", "|---|---|", *rows]
    (SOURCE / "api.md").write_text("\n".join(lines) + "\n")


def latest_report() -> Path | None:
    "The report of the study of real images that ran last in this checkout; else the one that came with it, if any."
    reports = sorted(ROOT.glob("outputs/*/report.ipynb"), key=lambda p: p.stat().st_mtime, reverse=True)
    trained_on = lambda p: yaml.safe_load((p.parent / "study.yaml").read_text())["unet"].get("dataset", "synthetic")
    real = [p for p in reports if (p.parent / "study.yaml").exists() and not trained_on(p).startswith(("synthetic", "outputs/tutorial"))]
    return next(iter(real + sorted(ROOT.glob("outputs/reference/*/report.ipynb"))), None)


def make_report():
    "What follows the parameters in the latest report, without its code; or a page that says there is none."
    report = latest_report()
    if report is None:
        (SOURCE / "report.md").write_text("# Report\n\nNo study of real images has run in this checkout. `make study STUDY=pets-small` runs one and leaves its\n"
                                          "report in `outputs/pets-small/report.html`; `make docs` then shows it here.\n")
        return
    executed = nbformat.read(report, as_version=4)
    last = max(i for i, c in enumerate(executed.cells) if {"parameters", "injected-parameters"} & set(c.metadata.get("tags", [])))
    cells = [nbformat.v4.new_markdown_cell(f"# Report\n\nThe study `{report.parent.name}`, as `05_study` reported it.")]
    for cell in executed.cells[last + 1:]:
        if cell.cell_type == "code":
            with_directives(cell)
            cell.metadata["tags"] = ["remove-input", *cell.metadata.get("tags", [])]
        cells.append(cell)
    write(nbformat.v4.new_notebook(cells=cells), "report")


# Assets, Sphinx, and a look at the result

def vendor(into: Path):
    "MathJax, and the library that shows saved widgets, from npm; kept in _docs/vendor."
    VENDOR.mkdir(parents=True, exist_ok=True)
    for package, (name, wanted) in PACKAGES.items():
        kept = VENDOR / f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"  # the name that npm gives it
        if not kept.exists():
            if not shutil.which("npm"): raise SystemExit("make docs needs npm, for MathJax and for saved widgets; install Node.js.")
            subprocess.run(["npm", "pack", "--silent", package], cwd=VENDOR, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(kept) as archive:
            for member in archive.getmembers():
                if not (path := re.fullmatch(r"package/(?:es5|dist)/(.*)", member.name)) or not re.fullmatch(f"package/{wanted}", member.name): continue
                target = into / name / path[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())


class _Page(HTMLParser):
    "What a page links to, loads, and can be linked at."
    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.ids, self.without_alt = [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if "id" in a: self.ids.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("rel") != "canonical" and a.get("href"): self.loads.append(a["href"])
        if tag == "img" and not a.get("alt", "").strip(): self.without_alt += 1


def check_site(html: Path) -> list[str]:
    "What is wrong with the pages: dead links, anything loaded from a network, figures without a text, weight."
    pages, wrong = {p: _Page(p.read_text()) for p in html.rglob("*.html") if "_static" not in p.parts}, []
    for path, page in pages.items():
        name = path.relative_to(html)
        if page.without_alt: wrong.append(f"{name}: {page.without_alt} figures have no alt text")
        if path.stat().st_size > 3e6: wrong.append(f"{name}: {path.stat().st_size / 1e6:.1f} MB")
        for address in page.links + page.loads:
            url = urllib.parse.urlsplit(address)
            if url.scheme in ("http", "https") and address in page.loads: wrong.append(f"{name}: loads {address}")
            if url.scheme or url.netloc: continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not target.is_file(): wrong.append(f"{name}: {address} leads nowhere")
            elif url.fragment and target in pages and urllib.parse.unquote(url.fragment) not in pages[target].ids | {"top"}: wrong.append(f"{name}: {address} has no such anchor")
    return wrong


def main():
    for folder in (SOURCE, HTML): shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "nbs" / "docs", SOURCE, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    vendor(SOURCE / "_static")
    names = [make_page(path) for path in sorted((ROOT / "nbs").glob("*.ipynb"))]
    names.remove("index")
    make_home(names)
    make_api(names)
    make_report()
    if code := sphinx(["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-d", str(OUT / "doctrees"), str(SOURCE), str(HTML)]): raise SystemExit(code)
    if wrong := check_site(HTML): raise SystemExit("\n".join(wrong))
    print(f"The docs are in {HTML / 'index.html'}")


if __name__ == "__main__": main()
