"""`runai models get` against a stand-in for the hub, in a process of its own as users run it."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hub
import pytest

from runai.cli.fetch import vocabulary
from runai.cli.fetch.wellknown import ORGANISATIONS, WELL_KNOWN
from runai.engine.catalogue import Catalogue
from runai.errors import FetchFailed

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
WEIGHTS = bytes(range(256)) * 400
CONFIG = b'{"sample_size": 8}'
MODEL = {
    "README.md": b"about",
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "unet/config.json": CONFIG,
    "unet/diffusion_pytorch_model.bin": WEIGHTS,
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS[::-1],
    "vae/config.json": b"",
}
FETCHED = sorted(name for name in MODEL if not name.endswith((".md", ".bin")))
LARGE = "unet/diffusion_pytorch_model.safetensors"
NAME = "runwayml/tiny"


@pytest.fixture
def stand_in() -> Iterator[hub.Hub]:
    with hub.serving({NAME: MODEL}) as served:
        yield served


class Done(NamedTuple):
    code: int
    out: str
    err: str
    base: Path


@pytest.fixture
def get(stand_in: hub.Hub, tmp_path: Path) -> Callable[..., Done]:
    """`get(words…)`: run to the end, with the stand-in as the hub."""
    base = tmp_path / "models"
    base.mkdir()

    def run(*words: str, **environ: str) -> Done:
        done = subprocess.run(
            command(base, *words),
            env=environment(stand_in, tmp_path) | environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr, base)

    return run


def command(base: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "runai", "models", "get", *words),
        *("--model-base-path", str(base)),
    ]


def environment(stand_in: hub.Hub, home: Path) -> dict[str, str]:
    # as in a shell in which a server was started before: offline, without bars
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_ENDPOINT": stand_in.url,
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "*",
    }


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_model_is_fetched_whole_to_its_place(get: Callable[..., Done], stand_in: hub.Hub) -> None:
    done = get(NAME)
    assert done.code == 0, done.err
    assert done.out.strip() == str(done.base / NAME)
    assert content(done.base / NAME) == {name: MODEL[name] for name in FETCHED}
    assert sorted(stand_in.files_asked) == sorted(name for name in FETCHED if MODEL[name])
    assert list((done.base / ".fetching").iterdir()) == []


def test_it_says_how_much_it_fetches_and_from_where(get: Callable[..., Done]) -> None:
    assert f"Fetching {len(FETCHED)} files, 0.00 GB, of {NAME}." in get(NAME).err


def test_nobody_else_is_asked_and_nothing_is_told_about_this_machine(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    assert get(NAME).code == 0
    first, *files = [row.path for row in stand_in.asked]
    assert first.startswith(f"/api/models/{NAME}")
    assert all("/resolve/" in path or path.startswith("/cdn/") for path in files)
    assert {row.agent.partition("/")[0] for row in stand_in.asked} == {"runai"}
    assert "torch" not in stand_in.asked[0].agent


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.cut = 30_000
    done = get(NAME)
    assert done.code == 1
    assert "Run the same command again" in done.err and "Traceback" not in done.err
    assert not (done.base / NAME).exists()
    stand_in.cut = None
    before = len(stand_in.asked)
    assert get(NAME).code == 0
    again = [row for row in stand_in.asked[before:] if row.path.startswith("/cdn/")]
    assert [row.range for row in again] == ["bytes=30000-"], "the rest of the one file, only"
    assert content(done.base / NAME) == {name: MODEL[name] for name in FETCHED}


def test_a_hub_that_sends_everything_again_is_understood(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.cut = 30_000
    assert get(NAME).code == 1
    stand_in.cut, stand_in.ranges = None, False
    done = get(NAME)
    assert done.code == 0, done.err
    assert (done.base / NAME / LARGE).read_bytes() == MODEL[LARGE]


def test_what_arrives_damaged_is_not_kept(get: Callable[..., Done], stand_in: hub.Hub) -> None:
    stand_in.spoiled.add(LARGE)
    done = get(NAME)
    assert done.code == 1 and f"{LARGE} did not arrive as it was sent" in done.err
    stand_in.spoiled.clear()
    assert get(NAME).code == 0


def test_a_file_that_never_ends_is_cut_off_and_not_kept(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.flooding.add(LARGE)
    done = get(NAME)
    assert done.code == 1 and f"{LARGE} did not arrive as it was sent" in done.err
    assert stand_in.cut_off.wait(PATIENCE_S), "all of it was read"
    assert not list(done.base.rglob("*.part"))
    stand_in.flooding.clear()
    assert get(NAME).code == 0


def test_a_hub_that_breaks_off_at_the_same_place_is_given_up(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.cut, stand_in.keeps_cutting, stand_in.ranges = 30_000, True, False
    done = get(NAME)
    assert done.code == 1 and "The connection broke" in done.err


@pytest.mark.parametrize("said", [b'{"a":', b"[]", {"sha": "/../../../ab" + "c" * 28}], ids=str)
def test_a_listing_that_makes_no_sense_is_said_in_one_line(
    get: Callable[..., Done], stand_in: hub.Hub, said: Any
) -> None:
    whole = {"id": NAME, "sha": hub.COMMIT, "siblings": [row("a.safetensors")]}
    stand_in.listing = said if isinstance(said, bytes) else json.dumps(whole | said).encode()
    done = get(NAME)
    assert done.code == 1 and done.err.endswith("[fetch_failed]\n"), done.err
    assert "cannot be understood" in done.err and len(done.err.splitlines()) == 1
    assert stand_in.files_asked == [] and content(done.base.parent) == {}


def row(name: str) -> dict[str, Any]:
    return {"rfilename": name, "size": 9, "blobId": "b" * 40}


def test_files_whose_names_cannot_be_some_here_are_left_out_and_said(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    rows = [row("a\0b.safetensors"), row("a\n\x1b[31mb.safetensors"), row("../a.safetensors")]
    said = {"id": NAME, "sha": hub.COMMIT, "siblings": rows}
    stand_in.listing = json.dumps(said).encode()
    done = get(NAME)
    assert done.code == 2 and stand_in.files_asked == []
    assert content(done.base.parent) == {}
    first, second = done.err.splitlines()
    assert first.startswith("Left out, for its name: ") and second.endswith("[invalid_setting]")
    assert first.isprintable() and second.isprintable() and "there are none." in second


def test_an_odd_name_among_others_keeps_nobody_from_the_rest(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.repositories = {NAME: {**MODEL, "samples/\u200d.png": b"x"}}
    done = get(NAME)
    assert done.code == 0, done.err
    assert "Left out, for its name: 'samples/\\u200d.png'." in done.err


def test_a_model_that_is_there_is_not_fetched_again(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    assert get(NAME).code == 0
    before = len(stand_in.asked)
    done = get(NAME)
    assert (done.code, done.out.strip()) == (0, f"{done.base / NAME} is there already.")
    assert len(stand_in.asked) == before


def test_into_names_another_folder(get: Callable[..., Done]) -> None:
    done = get(NAME, "--into", "v2/mine")
    assert done.code == 0, done.err
    assert (done.base / "v2" / "mine" / "tiny" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runwayml/none"], "There is no repository runwayml/none"),
        ([NAME, "--revision", "dev"], f"{NAME} has no such revision"),
        (["just-a-name"], "Write owner/name, or one of: vocabulary, base-v1"),
        (["a/b/c"], "Write owner/name"),
        (["a b/c"], "is no name of a repository"),
        ([NAME, "--include", "*.gguf"], "No file of the repository"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(
    get: Callable[..., Done], words: list[str], said: str
) -> None:
    done = get(*words)
    assert done.code in (1, 2)
    assert said in done.err and len(done.err.splitlines()) == 1


def test_terms_that_were_not_accepted_are_told_from_a_wrong_name(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.gated.add(NAME)
    done = get(NAME)
    assert done.code == 1 and "accepted its terms" in done.err and "HF_TOKEN" in done.err


def test_the_token_is_shown_to_the_hub_and_to_nobody_else(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    assert get(NAME, HF_TOKEN="hf_secret").code == 0
    shown = {row.host.partition(":")[0]: row.token for row in reversed(stand_in.asked)}
    assert shown == {"127.0.0.1": "Bearer hf_secret", "localhost": None}


def test_without_a_network_it_says_so(get: Callable[..., Done], dead_port: int) -> None:
    done = get(NAME, HF_ENDPOINT=f"http://127.0.0.1:{dead_port}")
    assert done.code == 1 and "The hub cannot be reached" in done.err
    assert len(done.err.splitlines()) == 1


def in_a_script(stand_in: hub.Hub, base: Path, before: str) -> subprocess.CompletedProcess[str]:
    """`models get` in a process in which these lines of Python went before."""
    script = f"import sys\n{before}\nfrom runai.cli import main\n"
    script += f"sys.exit(main({command(base, NAME)[3:]!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment(stand_in, base.parent),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_full_disk_is_told_before_anything_is_fetched(stand_in: hub.Hub, tmp_path: Path) -> None:
    full = (
        "import shutil\n"
        "real = shutil.disk_usage\n"
        "shutil.disk_usage = lambda folder: real(folder)._replace(free=1000)"
    )
    done = in_a_script(stand_in, tmp_path, full)
    assert done.returncode == 1 and "[no_space]" in done.stderr
    assert stand_in.files_asked == []


def test_a_disk_that_gets_full_meanwhile_is_said_in_one_line(
    stand_in: hub.Hub, tmp_path: Path
) -> None:
    base = tmp_path / "models"
    base.mkdir()
    most = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    done = in_a_script(stand_in, base, most)
    assert done.returncode == 1 and "[fetch_failed]" in done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 2, "what is fetched, and the error"
    assert in_a_script(stand_in, base, "").returncode == 0
    assert content(base / NAME) == {name: MODEL[name] for name in FETCHED}


def test_a_base_path_that_cannot_be_written_is_said_in_one_line(
    stand_in: hub.Hub, tmp_path: Path
) -> None:
    base = tmp_path / "models"
    base.mkdir()
    (base / ".fetching").write_text("in the way")
    done = in_a_script(stand_in, base, "")
    assert done.returncode == 1 and "[fetch_failed]" in done.stderr
    assert ".fetching" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_bar_shows_how_far_it_is(stand_in: hub.Hub, tmp_path: Path) -> None:
    """On a terminal, that is."""
    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 100))
    with subprocess.Popen(
        command(tmp_path, NAME),
        env=environment(stand_in, tmp_path),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=inner,
    ) as process:
        os.close(inner)
        shown = read_terminal(outer)
        assert process.wait(PATIENCE_S) == 0
    assert "100%" in shown and "B/s" in shown and "/102k" in shown


def read_terminal(descriptor: int) -> str:
    parts = []
    try:
        while data := os.read(descriptor, 4096):
            parts.append(data)
    except OSError as error:  # how a terminal says that nobody writes any more
        assert error.errno == errno.EIO
    os.close(descriptor)
    return b"".join(parts).decode()


def test_ctrl_c_ends_it_cleanly_and_it_goes_on_later(
    stand_in: hub.Hub, get: Callable[..., Done], tmp_path: Path
) -> None:
    base = tmp_path / "models"
    stand_in.stall()
    with subprocess.Popen(
        command(base, NAME),
        env=environment(stand_in, tmp_path),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        stand_in.stalled.wait(PATIENCE_S)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[1]
    stand_in.go_on()
    assert process.returncode == 130 and "Interrupted" in said and "Traceback" not in said
    assert get(NAME).code == 0


def lora() -> bytes:
    """A LoRA of one layer, in kohya's names."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    rows = {f"{name}.lora_down.weight": [4, 320], f"{name}.lora_up.weight": [320, 4]}
    header, end = {}, 0
    for row, shape in rows.items():
        size = 2 * shape[0] * shape[1]
        header[row] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(end)


def test_a_single_file_goes_where_its_kind_belongs(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.repositories = {"someone/style": {"style.safetensors": lora(), "a.png": b""}}
    done = get("someone/style")
    assert done.code == 0, done.err
    assert done.out.strip() == str(done.base / "Lora" / "style.safetensors")
    assert (done.base / "Lora" / "style.safetensors").read_bytes() == lora()


def test_a_model_of_somebody_goes_to_the_folder_of_its_version(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    example = ROOT / "models.example" / "v1" / "shapes"
    files = [path for path in example.rglob("*") if path.is_file()]
    named = {str(path.relative_to(example)): path.read_bytes() for path in files}
    stand_in.repositories = {"someone/shapes": named}
    done = get("someone/shapes")
    assert done.code == 0, done.err
    assert done.out.strip() == str(done.base / "v1" / "shapes")


def test_a_tiny_autoencoder_lies_where_it_is_found(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    weights = "diffusion_pytorch_model.safetensors"
    whole = {
        "config.json": b'{"_class_name": "AutoencoderTiny", "latent_channels": 4}',
        weights: WEIGHTS,
        "taesdxl_decoder.safetensors": WEIGHTS,
        "taesdxl_encoder.safetensors": WEIGHTS,
    }
    stand_in.repositories = {"madebyollin/taesdxl": whole}
    done = get("madebyollin/taesdxl")
    assert done.code == 0, done.err
    assert content(done.base / "VAE" / "taesdxl").keys() == {"config.json", weights}
    [entry] = Catalogue([done.base]).entries()
    assert (entry.name, entry.tiny, entry.version) == ("VAE/taesdxl", True, "xl")


def test_what_cannot_be_used_stays_aside_and_is_named(
    get: Callable[..., Done], stand_in: hub.Hub
) -> None:
    stand_in.repositories = {"someone/else": {"language.safetensors": b"x" * 100}}
    done = get("someone/else")
    assert done.code == 1 and "--into" in done.err
    assert len(done.err.splitlines()) == 2, "what is fetched, and the error"


def test_the_well_known_have_their_place_under_an_organisation() -> None:
    for row in WELL_KNOWN.values():
        owner, _, name = row.place.partition("/")
        assert owner in ORGANISATIONS and name


def test_the_vocabulary_must_be_the_one() -> None:
    tampered = (lambda: bytes(1_356_917), lambda: b"<html>")
    with pytest.raises(FetchFailed, match="another file; it sent another file"):
        vocabulary.bring(tampered)


def test_a_packaged_program_does_not_ask_itself_for_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(FileNotFoundError, match="no pip"):
        vocabulary.from_index()


def test_a_source_that_fails_is_followed_by_the_next(tmp_path: Path) -> None:
    asked = []

    def absent() -> bytes:
        asked.append("first")
        return vocabulary.from_wheel(tmp_path)

    with pytest.raises(FetchFailed, match=r"no wheel .*; it sent another file"):
        vocabulary.bring((absent, lambda: b"x"))
    assert asked == ["first"]
