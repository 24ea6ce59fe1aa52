"""What is in the program that bin/buildlinux.sh makes, and what is left out, and why.

PyInstaller follows import statements, also those that are never executed, and takes whole
packages where its hooks say so. Here are the corrections, as tables: what is imported by a
name that only a run knows is added, what drawing never reaches is left out. Proves nothing:
bin/test-binary.sh does, by drawing with the result in every way there is.
"""

from __future__ import annotations

import fnmatch
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXAMPLE = "models.example"
EXAMPLES = ("v1", "v2", "lora", "embeddings")
# diffusers and transformers ask for the versions of packages before they use them
METADATA = ("diffusers", "requests", "safetensors", "scipy", "torch", "torchsde", "transformers")
Entry = tuple[str, str, str]  # where to, where from, what kind: PyInstaller's

# Packages of which only these members are taken.
ONLY: dict[str, frozenset[str]] = {
    # clip, dpt and bit (what it sees depths with) draw; auto knows all others by name; the rest
    # is imported by diffusers or transformers, whatever is drawn
    "transformers.models": frozenset(
        {"clip", "dpt", "bit", "auto", "bloom", "dinov2_with_registers", "encoder_decoder"}
        | {"siglip", "vit_mae"}
    ),
    # for its safety checker
    "diffusers.pipelines": frozenset({"stable_diffusion"}),
    # torch.utils.checkpoint and accelerate import these
    "torch.testing._internal": frozenset({"common_dtype", "distributed", "logging_tensor"}),
    # settings and tables that torch._dynamo reads; nothing is compiled
    "torch._inductor": frozenset(
        {"_functionalize_collectives", "analysis", "config", "config_comms", "cpp_builder"}
        | {"cpu_vec_isa", "cudagraph_utils", "custom_graph_pass", "exc", "runtime"}
        | {"standalone_compile", "test_operators", "utils"}
    ),
}

# Modules that are left out, with what is below them, and what they are for.
LEFT_OUT: dict[str, str] = {
    "IPython": "interactive use",
    "PIL._avif": "a format of pictures that is not read",
    "PIL._imagingcms": "colour profiles",
    "PIL._imagingft": "drawing text",
    "_distutils_hack": "building packages",
    "accelerate.test_utils": "tests",
    "babel": "languages, of documentation",
    "click": "command lines of others",
    "curses": "terminals",
    "cv2": "the extra watermark, 150 MB",
    "diffusers.modular_pipelines": "pipelines, which are not used",
    "doctest": "tests",
    "docutils": "documentation",
    "hf_xet": "downloads by huggingface_hub; `models get` has its own",
    "huggingface_hub.cli": "command lines of others",
    "hypothesis": "tests",
    "imwatermark": "the extra watermark",
    "matplotlib": "plots",
    "mypy": "checking types",
    "networkx": "the compiler of torch",
    "openvino": "another backend, which is an extra, 150 MB",
    "pandas": "tables",
    "peft": "LoRAs; runai.engine.loras does that",
    "pip": "building packages",
    "pydantic.mypy": "checking types",
    "pygments": "command lines of others",
    "pytest": "tests",
    "pywt": "the extra watermark",
    "readline": "interactive use",
    "rich": "command lines of others",
    "scipy.cluster": "clustering",
    "scipy.io": "file formats",
    "scipy.signal": "filters",
    "setuptools": "building packages",
    "sphinx": "documentation",
    "sqlite3": "databases",
    "tkinter": "windows",
    "torch.utils.benchmark": "measuring torch",
    "torch.utils.bottleneck": "measuring torch",
    "torch.utils.cpp_extension": "compiling against torch",
    "torch.utils.tensorboard": "training",
    "typer": "command lines of others",
}

# Files that are left out, by their place in the program, and what they are for.
FILES_LEFT_OUT: dict[str, str] = {
    "torch/bin/[!t]*": "compiling against torch, and tests",
    "torch/bin/test_*": "tests",
    "torch/include/*": "compiling against torch",
    "torch/lib/*test*.so": "tests",
    "torch/lib/libaoti_custom_ops.so": "tests",
    "torch/lib/libbackend_with_compiler.so": "tests",
    "torch/share/*": "compiling against torch",
    "torch/test/*": "tests",
}

# PyInstaller's hooks that late.py runs when they are needed.
LATE = ("pyi_rth_inspect", "pyi_rth_multiprocessing", "pyi_rth_pkgutil")


def hooks() -> str:
    """Where PyInstaller keeps them."""
    return str(Path(find_spec("PyInstaller").origin).parent / "hooks" / "rthooks")


def left_out() -> list[str]:
    others = (
        f"{package}.{name}" for package, names in ONLY.items() for name in _members(package) - names
    )
    return [*LEFT_OUT, *others]


def _members(package: str) -> set[str]:
    folders = find_spec(package).submodule_search_locations
    return {module.name for module in pkgutil.iter_modules(folders)}


def imported_by_name() -> list[str]:
    """Our commands and dialects, which are in tables, and the hooks that late.py runs."""
    ours = pkgutil.walk_packages([str(ROOT / "runai")], "runai.")
    return [*(m.name for m in ours if not m.name.startswith("runai.testing")), *LATE]


def data_files() -> list[tuple[str, str]]:
    from PyInstaller.utils.hooks import copy_metadata

    metadata = [entry for package in METADATA for entry in copy_metadata(package)]
    return [(str(ROOT / EXAMPLE / name), f"{EXAMPLE}/{name}") for name in EXAMPLES] + metadata


def collection() -> dict[str, str]:
    """Where sources go along with the compiled modules, because they are read.

    transformers finds its models in the file system; torch's settings read their own comments.
    """
    return {"torch": "pyz", "transformers": "pyz+py", **dict.fromkeys(_settings(), "pyz+py")}


def _settings() -> list[str]:
    [folder] = find_spec("torch").submodule_search_locations
    return [
        ".".join(path.relative_to(Path(folder).parent).with_suffix("").parts)
        for path in Path(folder).rglob("*config*.py")
        if "install_config_module(" in path.read_text("utf-8")
    ]


def at_start(scripts: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in scripts if entry[0] not in LATE]


def needed(entries: Iterable[Entry]) -> list[Entry]:
    return [
        entry
        for entry in entries
        if not any(fnmatch.fnmatchcase(entry[0], pattern) for pattern in FILES_LEFT_OUT)
    ]


def stripped(entries: Iterable[Entry], folder: str) -> list[Entry]:
    """Libraries without the names of what is private to them: a fifth of their size.

    Those of *.libs stay: auditwheel has moved parts of them, which strip does not survive.
    """
    if sys.platform != "linux" or not shutil.which("strip"):
        return list(entries)
    return [
        (place, source, kind)
        if kind not in ("BINARY", "EXTENSION") or ".libs/" in place
        else (place, _strip(Path(source), Path(folder, "stripped", place)), kind)
        for place, source, kind in entries
    ]


def _strip(library: Path, made: Path) -> str:
    made.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "--strip-unneeded", "-o", made, library], check=True)
    return str(made)
