"Everything here comes from settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
readme = here / "README.md"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    license="MIT",
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["splits/*.csv", "sets/*.yaml"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "papermill.engine": cfg["papermill_engine"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    extras_require={name: cfg[f"{name}_requirements"].split() for name in ("dev", "onnx", "slurm")},
)
