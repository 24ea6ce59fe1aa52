"""Each setting comes from the first place that has it, and a wrong one names its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runai.cli import wiring
from runai.errors import InvalidSetting
from runai.schema.limits import Limits
from runai.settings import ROWS, Settings, is_loopback, load


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_anything_given_the_defaults_hold() -> None:
    assert load({}, {"XDG_CONFIG_HOME": "/nowhere"}) == Settings()
    assert (Settings().host, Settings().port, Settings().packet_size) == ("localhost", 50006, 1024)
    assert Settings().max_client_connections == 32
    assert Settings().model_base_path == (Path.home() / "stablediffusion",)


def test_the_default_limits_are_those_of_the_schema() -> None:
    assert wiring.limits(Settings()) == Limits()


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(tmp_path: Path) -> None:
    config = write(tmp_path / "my.toml", "port = 3\nmax_steps = 3\nmax_images = 3\n")
    environ = {"RUNAI_PORT": "2", "RUNAI_MAX_STEPS": "2"}
    settings = load({"port": "1", "max_steps": None}, environ, config=config)
    assert (settings.port, settings.max_steps, settings.max_images) == (1, 2, 3)
    assert settings.max_queued == Settings().max_queued


def test_the_standard_file_is_read_if_it_is_there(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load({}, environ).port == 50006
    write(tmp_path / "runai" / "runai.toml", "port = 7\nkeep_alive = true\ngrace_s = 0.5\n")
    settings = load({}, environ)
    assert (settings.port, settings.keep_alive, settings.grace_s) == (7, True, 0.5)


def test_every_setting_can_be_given_everywhere(tmp_path: Path) -> None:
    file = str(write(tmp_path / "file", "a token of some length\n"))
    texts = {
        **dict.fromkeys(("token_file", "tls_cert", "tls_key"), file),
        **dict.fromkeys(("tls_client_ca", "tls_client_cert"), file),
        "listen": "unix:/tmp/runai.sock",
        "tls": "true",
        "host": "127.0.0.2",
        "timeout": "true",
        "model_base_path": str(tmp_path),
        "keep_alive": "yes",
        "device": "cuda:1",
        "dtype": "BF16",
        "backend": "Torch",
        "insecure": "1",
        "allow_convert": "yes",
        "log_level": "debug",
        "log_format": "json",
        "log_prompts": "yes",
        "nsfw_filter_missing": "warn",
        "watermark_missing": "WARN",
    }
    given = {name: texts.get(name, "63") for name in ROWS}
    given |= {"max_message_bytes": "2048", "max_pixels": "4096", "max_input_pixels": "4096"}
    config = write(tmp_path / "all.toml", "".join(f'{k} = "{v}"\n' for k, v in given.items()))
    by_flag = load(given, {})
    assert by_flag == load({}, {ROWS[name].variable: value for name, value in given.items()})
    assert by_flag == load({}, {}, config=config)
    defaults = Settings()
    assert all(getattr(by_flag, name) != getattr(defaults, name) for name in ROWS)


def test_the_originals_variable_for_the_models_is_read_too(tmp_path: Path) -> None:
    assert load({}, {"BASE_DIR": str(tmp_path)}).model_base_path == (tmp_path,)
    ours = tmp_path / "ours"
    ours.mkdir()
    both = {"BASE_DIR": str(tmp_path), "RUNAI_MODEL_BASE_PATH": str(ours)}
    assert load({}, both).model_base_path == (ours,)


def test_several_folders_of_models_are_written_as_in_path(tmp_path: Path) -> None:
    both = [tmp_path / "a", tmp_path / "b"]
    for path in both:
        path.mkdir()
    given = os.pathsep.join(map(str, both))
    assert load({"model_base_path": given}, {}).model_base_path == tuple(both)
    with pytest.raises(InvalidSetting):
        load({"model_base_path": f"{given}{os.pathsep}{tmp_path}/nowhere"}, {})


def test_timeout_means_three_attempts_of_three_seconds() -> None:
    assert load({"timeout": True}, {}).first_client_timeout_s == 9.0
    assert load({}, {}).first_client_timeout_s is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "many"),
        ("port", ""),
        ("packet_size", "15"),
        ("max_steps", "0"),
        ("max_steps", "1001"),
        ("max_pixels", "1.5"),
        ("grace_s", "-1"),
        ("grace_s", "nan"),
        ("message_timeout_s", "0"),
        ("token_file", "/nowhere"),
        ("token_file", "x" * 5000),
        ("timeout", "perhaps"),
        ("device", "cuda:"),
        ("device", "gpu"),
        ("dtype", "fp8"),
        ("log_level", "loud"),
        ("host", ""),
        ("host", "a b"),
        ("host", "localhost:8080"),
        ("host", "local\0host"),
        ("model_base_path", "/a" + "b" * 300),
        ("model_base_path", "~nobody-of-this-name/models"),
        ("model_base_path", "/nowhere/at/all"),
        ("model_base_path", ""),
    ],
)
def test_a_wrong_flag_is_named_with_what_came_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load({name: value}, {})
    text = str(caught.value)
    assert text.startswith(f"{ROWS[name].flag}: {value!r} is not ")
    assert ROWS[name].kind.allowed in text
    assert "\n" not in text


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(InvalidSetting, match=r"^RUNAI_PORT: 'x' is not a whole number"):
        load({}, {"RUNAI_PORT": "x"})
    with pytest.raises(InvalidSetting, match=r"^BASE_DIR: '/nowhere' is not a folder"):
        load({}, {"BASE_DIR": "/nowhere"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("port = 70000", "c.toml, port: '70000' is not a whole number from 0 to 65535."),
        ("port = true", "c.toml, port: 'True' is not a whole number"),
        ("port = [1]", "c.toml, port: '[1]' is not a whole number"),
        ("prot = 1", "c.toml: there is no setting 'prot'. Use one of: host, port,"),
        ("port = ", "c.toml is not TOML: "),
        (f"port = {'[' * 5000}", "c.toml is not TOML: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load({}, {}, config=write(tmp_path / "c.toml", text))
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"no\.toml cannot be read: No such file"):
        load({}, {}, config=tmp_path / "no.toml")


def test_a_value_of_a_place_that_is_overruled_may_be_wrong() -> None:
    assert load({"port": "1"}, {"RUNAI_PORT": "x"}).port == 1


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "192.168.1.2", "::", "example.org", "127.0.0.1.eu", "127.٠.٠.١", "127.0.0.256"],
)
def test_a_host_beyond_loopback_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load({}, {"RUNAI_HOST": host})
    assert "RUNAI_HOST" in str(caught.value)
    assert "a token" in str(caught.value) and "TLS" in str(caught.value)
    assert "--insecure" in str(caught.value)
    assert load({"host": host, "insecure": True}, {}).host == host


TOKEN = "correct horse battery staple"


def test_beyond_loopback_a_token_and_tls_are_wanted_and_what_is_missing_is_named(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "cert.pem", "")
    with pytest.raises(InvalidSetting) as no_tls:
        load({"host": "0.0.0.0"}, {"RUNAI_TOKEN": TOKEN})
    assert "TLS" in no_tls.value.message and "token" not in no_tls.value.message
    with pytest.raises(InvalidSetting) as no_token:
        load({"host": "0.0.0.0", "tls_cert": file}, {})
    assert "token" in no_token.value.message and "TLS" not in no_token.value.message
    assert load({"host": "0.0.0.0", "tls_cert": file}, {"RUNAI_TOKEN": TOKEN}).host == "0.0.0.0"
    assert load({"host": "gpu.example", "tls": True}, {"RUNAI_TOKEN": TOKEN}).tls


def test_a_unix_socket_is_this_computer_whatever_the_host_is() -> None:
    settings = load({"host": "0.0.0.0", "listen": "unix:~/s"}, {})
    assert settings.is_local
    assert settings.unix_path == Path.home() / "s"


@pytest.mark.parametrize("listen", ["/tmp/s", "unix:", "tcp:1", ""])
def test_what_is_no_unix_socket_is_refused(listen: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^--listen: .* is not unix: and the path"):
        load({"listen": listen}, {})


def test_the_token_is_read_from_a_file_before_the_variable_and_without_its_line_end(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "token", f"  {TOKEN}\n")
    assert (
        load({"token_file": file}, {"RUNAI_TOKEN": "another token of some length"}).token == TOKEN
    )
    assert load({}, {"RUNAI_TOKEN": TOKEN}).token == TOKEN
    assert load({}, {"RUNAI_TOKEN": ""}).token == ""


@pytest.mark.parametrize(
    "secret", ["short", "x" * 15, "y" * 1025, "two lines are\nno token at all", "", "nul\0" * 9]
)
def test_what_is_no_token_is_refused_and_never_shown(tmp_path: Path, secret: str) -> None:
    file = write(tmp_path / "token", secret)
    with pytest.raises(InvalidSetting) as caught:
        load({"token_file": file}, {})
    assert str(file) in caught.value.message
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("length", [16, 1024])
def test_a_token_may_be_as_long_as_the_bounds_say(length: int) -> None:
    assert load({}, {"RUNAI_TOKEN": "x" * length}).token == "x" * length


def test_a_token_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff" * 32)
    with pytest.raises(InvalidSetting, match="cannot be read"):
        load({"token_file": file}, {})


def test_the_token_has_no_flag_and_is_not_shown_with_the_settings() -> None:
    assert "token" not in ROWS
    assert TOKEN not in repr(load({}, {"RUNAI_TOKEN": TOKEN}))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert is_loopback(load({"host": host}, {}).host)


def test_the_scheme_in_the_originals_example_is_dropped_with_a_warning() -> None:
    lines: list[str] = []
    flags = {"host": "https://0.0.0.0/", "port": "8080", "timeout": True, "insecure": True}
    settings = load(flags, {}, warn=lines.append)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert lines == ["--host: https:// means nothing here, the host 0.0.0.0 is taken."]


def test_settings_import_nothing_heavy() -> None:
    heavy = "{'pydantic', 'torch', 'numpy', 'PIL', 'logging', 'tomllib'}"
    program = f"import sys, runai.settings; print(*({heavy} & sys.modules.keys()))"
    # -S: without what a coverage run starts in every process
    words = [sys.executable, "-S", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == ""
