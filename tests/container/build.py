"""Does what the Dockerfile says without Docker, and tries what comes of it: run as a program.

    python build.py BASE WORK [SHOWN …]

BASE: the root of a plain Debian with Python, which stands in for the images that the Dockerfile
begins with. WORK: a new folder for the roots that are made of it. SHOWN: files and folders of this
machine that are shown there, at the same place and read-only: pip's settings, say. Root only.

RUN, ENV, ARG, WORKDIR, USER and COPY are done, HEALTHCHECK, ENTRYPOINT and CMD are tried as
docker-compose.yml would: nothing but /tmp can be written, no network, no rights. Not Docker:
no layers, no cgroups, no seccomp.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# in namespaces of its own: mounts, processes and a network of nothing but itself
ALONE = """\
set -eu
root=$1; shift
mount --bind -o ro "$root" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
python3 -c "$UP"
exec setpriv --no-new-privs chroot --userspec 1000:1000 --groups= "$root" "$@"
"""
UP = (
    "import fcntl,socket,struct;"
    "fcntl.ioctl(socket.socket(),0x8914,struct.pack('16sh',b'lo',1)+bytes(22))"  # SIOCSIFFLAGS
)


@dataclass
class Stage:
    """One FROM: its root, and what has been said in it so far."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    said: dict[str, list[str]] = field(default_factory=dict)

    def expanded(self, text: str) -> str:
        known = {"PATH": PATH, **self.variables}
        return re.sub(r"\$\{?(\w+)\}?", lambda name: known.get(name[1], ""), text)

    def run(self, words: Sequence[str], *, outside: Sequence[str] = ("chroot",)) -> None:
        environment = {"PATH": PATH, "HOME": "/root", **self.variables}
        inside = ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *words]
        subprocess.run([*outside, str(self.root), *inside], check=True)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each with its words, lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name, rest.strip()


def assignments(stage: Stage, text: str) -> dict[str, str]:
    found = re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', text)
    return {name: stage.expanded(quoted or bare) for name, quoted, bare in found}


class Builder:
    def __init__(self, base: Path, work: Path, shown: Sequence[Path]) -> None:
        self._base = base
        self._work = work
        self._shown = shown
        self._stages: dict[str, Stage] = {}
        self.stage = Stage(base)

    def begin(self, rest: str) -> None:
        name = rest.partition(" AS ")[2] or "last"
        root = self._work / name
        subprocess.run(["cp", "-a", str(self._base), str(root)], check=True)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for path in self._shown:
            inside = root / path.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.mkdir(exist_ok=True) if path.is_dir() else inside.touch()
            subprocess.run(["mount", "--bind", "-o", "ro", str(path), str(inside)], check=True)
        self.stage = self._stages[name] = Stage(root)

    def environment(self, rest: str) -> None:
        self.stage.variables |= assignments(self.stage, rest)

    def do(self, rest: str) -> None:
        print(f"RUN {rest}", file=sys.stderr, flush=True)
        self.stage.run(["sh", "-c", f"cd {self.stage.folder} && {rest}"])

    def enter(self, rest: str) -> None:
        self.stage.folder = rest
        (self.stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str) -> None:
        words = rest.split()
        options = dict(word[2:].split("=") for word in words if word.startswith("--"))
        source, target = [word for word in words if not word.startswith("--")]
        inside = self.stage.root / (Path(self.stage.folder) / target).relative_to("/")
        if "from" in options:
            theirs = self._stages[options["from"]].root / source.lstrip("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-aT", str(theirs), str(inside)], check=True)
        else:
            names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            listed = subprocess.run(names, cwd=ROOT, check=True, capture_output=True).stdout
            into = ["xargs", "-0", "cp", "--parents", "-t", str(inside)]
            subprocess.run(into, input=listed, cwd=ROOT, check=True)
        if owner := options.get("chown"):
            place = str(Path("/") / inside.relative_to(self.stage.root))
            self.stage.run(["chown", "-R", owner, place])

    def say(self, name: str, rest: str) -> None:
        words = rest[rest.index("[") :] if "[" in rest else json.dumps(rest.split())
        self.stage.said[name] = json.loads(words)

    def build(self, text: str) -> Stage:
        actions = {
            "FROM": self.begin,
            "ENV": self.environment,
            "ARG": self.environment,
            "RUN": self.do,
            "WORKDIR": self.enter,
            "COPY": self.copy,
        }
        for name, rest in instructions(text):
            if name in actions:
                actions[name](rest)
            else:
                self.say(name, rest)
        return self.stage


def try_out(stage: Stage) -> None:
    """See `inside.py`."""
    assert stage.said["USER"] == ["1000"]
    stage.variables |= {"TMPDIR": "/tmp", "HOME": "/home/runai"}
    words = json.dumps([stage.said["ENTRYPOINT"] + stage.said["CMD"], stage.said["HEALTHCHECK"]])
    script = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
    os.environ["UP"] = UP
    new = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", ALONE, "sh"]
    stage.run(["python3", "-c", script, words], outside=new)


def main() -> None:
    base, work, *shown = map(Path, sys.argv[1:])
    stage = Builder(base, work, shown).build((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    try_out(stage)


if __name__ == "__main__":
    main()
