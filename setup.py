"""Puts the example model and the benchmarks into the package. All else about it is in setup.cfg.

In the repository models.example/ and benchmarks/ are beside runai/, where people look for them;
installed they are inside, where they are found wherever the package went. setup.cfg can say that of
modules only.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = ("models.example", "benchmarks")
NOT_DRAWN_WITH = "training"  # how it was made


class WithBeside(build_py):
    """As it was, and a row of data files for each folder of what is beside."""

    def finalize_options(self):
        super().finalize_options()
        self.data_files = [*self.data_files, *self._beside()]

    def _beside(self):
        folders = {path.parent for name in BESIDE for path in Path(name).rglob("*")}
        for folder in sorted(folders):
            names = sorted(path.name for path in folder.iterdir() if path.is_file())
            if not {NOT_DRAWN_WITH, "__pycache__"} & {*folder.parts} and names:
                yield "runai", str(folder), str(Path(self.build_lib, "runai", folder)), names


setup(cmdclass={"build_py": WithBeside})
