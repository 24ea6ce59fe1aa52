"""A runtime hook: PyInstaller's own hooks run when they are needed, not before the server listens.

They teach `inspect`, `pkgutil` and `multiprocessing` where a packaged program keeps its modules,
and import these and more for it: a third of the time until the server listens. Only what torch
stands for uses them. A child that multiprocessing starts (from Python 3.14 on, to clean up
after a lock of tqdm's) is this program again, with -c: it needs them at once.
"""

import sys
import warnings
from importlib import import_module

HOOKS = ("pyi_rth_inspect", "pyi_rth_pkgutil", "pyi_rth_multiprocessing")
FIRST = {"torch", "huggingface_hub", "tqdm"}


class Late:
    """Asked before each module is imported; finds none."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in FIRST:
            run_hooks()


def run_hooks():
    sys.meta_path.remove(Late)
    for hook in HOOKS:
        import_module(hook)
    # torch.jit looks for the sources, which stay out, of functions that nobody compiles
    warnings.filterwarnings("ignore", "Unable to retrieve source", UserWarning)


sys.meta_path.insert(0, Late)
if "-c" in sys.argv:
    run_hooks()
    import_module("multiprocessing").freeze_support()
