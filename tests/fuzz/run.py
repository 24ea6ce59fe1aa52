"""Fuzzes one target, guided by what of the code its inputs reach: for long runs by hand.

    python tests/fuzz/run.py pictures --seconds 600
    python tests/fuzz/run.py --seeds          # writes the examples in corpus/ anew

Needs atheris (`pip install .[fuzz]`). What is found on the way is kept in build/fuzz/TARGET, to go
on from. An input that breaks something is written into corpus/TARGET, where the tests find it
from then on; give it a name that says what it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTRUMENTED = ["runai", "tomllib", "PIL", "zipfile"]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Fuzz one target.")
    parser.add_argument("target", nargs="?", help="a name in tests/fuzz/targets.py")
    parser.add_argument("--seconds", type=int, default=300, help="how long (300)")
    parser.add_argument("--seeds", action="store_true", help="only write the examples anew")
    given = parser.parse_args(words)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if given.seeds:
        from tests.fuzz import seeds

        seeds.write()
    else:
        fuzz(given.target, given.seconds)


def fuzz(name: str, seconds: int) -> None:
    """Never returns: ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.mutation import TOKENS
        from tests.fuzz.targets import TARGETS
    kept, found = ROOT / "tests" / "fuzz" / "corpus" / name, ROOT / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    words = found.with_suffix(".dict")
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
    options = {
        "max_total_time": seconds, "max_len": 4096, "timeout": 10, "rss_limit_mb": 4096,
        "print_final_stats": 1, "dict": words, "artifact_prefix": f"{kept}/",
    }  # fmt: skip
    flags = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(found), str(kept)], TARGETS[name])
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(sys.argv[1:])
