"""Puts the example model into the package. Everything else about it is in setup.cfg.

In the repository models.example/ is beside runai/, where people look for it; installed it is
inside, where it is found wherever the package went. setup.cfg can say that of modules only.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXAMPLE = "models.example"
NOT_DRAWN_WITH = "training"  # how it was made


class WithExample(build_py):
    """As it was, and a row of data files for each folder of the example model."""

    def finalize_options(self):
        super().finalize_options()
        self.data_files = [*self.data_files, *self._example()]

    def _example(self):
        for folder in sorted(path for path in Path(EXAMPLE).rglob("*") if path.is_dir()):
            names = sorted(path.name for path in folder.iterdir() if path.is_file())
            if NOT_DRAWN_WITH not in folder.parts and names:
                yield "runai", str(folder), str(Path(self.build_lib, "runai", folder)), names


setup(cmdclass={"build_py": WithExample})
