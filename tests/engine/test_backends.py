"""OpenVINO draws what torch draws; what it cannot draw, and while it is not there, torch does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
import tiny
import torch
from drawn import draw, held, last, make_request, pixels, run
from reference import worst

from runai.engine import reuse, threads
from runai.engine.backends import Asked, choice, trial
from runai.engine.backends.choice import Backends, is_installed
from runai.engine.backends.trial import Trial, Verdict
from runai.engine.devices import Place
from runai.engine.engine import TorchEngine
from runai.engine.model import LoadedModel
from runai.errors import DependencyMissing, InvalidSetting
from runai.schema.late import made

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="openvino is missing, and the [dev] extra has it: nothing is tested"
)
NEAR = 2e-5  # of numbers of about 1
CPU = Place(torch.device("cpu"), torch.float32)
ROWS = 4


@pytest.fixture(scope="module")
def by_openvino(models: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(models, device="cpu", dtype="fp32", backend="openvino")
    yield engine
    engine.close()


@pytest.fixture
def auto(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchEngine]:
    """One that thinks the tiny models large."""
    monkeypatch.setattr(LoadedModel, "is_small", False)
    monkeypatch.setattr(threads, "ALL", 1)  # as for small ones: or their last bits would differ
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    yield engine
    engine.close()


def backend_of(engine: TorchEngine) -> str:
    """What draws pictures that begin now with the one model that is loaded."""
    return next(one.backend for one in engine.holdings().loaded if one.kind == "model")


# --- the networks ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
@pytest.mark.parametrize("arch", tiny.MODELS)
@torch.inference_mode()
def test_a_unet_of_every_kind_says_what_it_says_in_torch(arch: str, size: tuple[int, int]) -> None:
    from runai.engine.backends import graph, openvino_backend

    torch.manual_seed(0)
    config = tiny.unet_config(**tiny.MODELS[arch].unet)
    unet = tiny.make_unet(config).eval()
    parts = openvino_backend.compiled(graph.of_unet(unet), torch.float32, 1)
    denoise = openvino_backend.OpenVinoDenoiser(unet, parts)
    latents = torch.randn(ROWS, config["in_channels"], *size)
    text = torch.randn(ROWS, 77, config["cross_attention_dim"])
    times, told = torch.tensor([1.0, 300.0, 700.0, 999.0]), tiny._told(unet.config)
    expected = unet(latents, times, text, **told).sample
    asked = Asked(latents, times, text, told)
    assert torch.allclose(denoise(asked), expected, rtol=0, atol=NEAR)
    if not reuse.is_possible(unet):
        return
    with reuse.captured(unet) as captured:
        unet(latents, times, text, **told)
    said, deep = denoise.whole(asked)
    assert torch.equal(said, denoise(asked))
    assert torch.allclose(deep, captured[0], rtol=0, atol=NEAR * deep.abs().max())
    other = Asked(latents + 1, times / 2, text - 1, told)
    with reuse.reused(unet, captured[0]):
        expected = unet(latents + 1, times / 2, text - 1, **told).sample
    assert torch.allclose(denoise.shallow(other, deep), expected, rtol=0, atol=2 * NEAR)
    assert not torch.allclose(denoise.shallow(other, deep + 1), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("config", [tiny.VAE, tiny.VAE_X4])
@torch.inference_mode()
def test_a_decoder_says_what_it_says_in_torch(config: dict[str, Any]) -> None:
    from runai.engine.backends import graph, openvino_backend

    torch.manual_seed(0)
    vae = tiny.make_vae(config).eval()
    parts = openvino_backend.compiled(graph.of_decoder(vae), torch.float32, 1)
    latents = torch.randn(1, 4, 8, 9) / config["scaling_factor"]
    said = openvino_backend.OpenVinoDecoder(parts)(latents)
    assert torch.allclose(said, vae.decode(latents).sample, rtol=0, atol=NEAR)


@pytest.mark.parametrize(
    ("where", "layer"),
    [
        ("conv_in", torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")),
        ("conv_norm_out", torch.nn.BatchNorm2d(8)),
        ("encoder_hid_proj", torch.nn.Linear(16, 16)),
    ],
)
def test_a_network_that_does_something_else_is_not_written_down(where: str, layer: Any) -> None:
    from runai.engine.backends import graph, layers

    unet = tiny.make_unet(tiny.unet_config())
    graph.of_unet(unet)
    setattr(unet, where, layer)
    with pytest.raises(layers.Unknown):
        graph.of_unet(unet)


# --- pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["txt2img", "img2img", "inpaint", "outpaint"])
@pytest.mark.parametrize("model", ["v1/plain", "v1/painter-inpainting", "v2/velocity"])
def test_a_picture_is_the_one_torch_draws(
    engine: TorchEngine, by_openvino: TorchEngine, model: str, task: str
) -> None:
    fields = {"model": model, "task": task, "prompt": "a b c", "negative_prompt": "d"}
    ours = draw(by_openvino, **fields)
    assert backend_of(by_openvino) == "openvino"
    assert worst(ours, draw(engine, **fields)) <= 1


def test_what_is_reused_is_what_torch_reuses(engine: TorchEngine, by_openvino: TorchEngine) -> None:
    for fields in ({"reuse": 3}, {"reuse": 2, "guidance_end": 0.5}, {"reuse": 2, "num_images": 2}):
        fields = {"prompt": "a b c", "num_inference_steps": 6, **fields}
        assert worst(draw(by_openvino, **fields), draw(engine, **fields)) <= 1
    assert backend_of(by_openvino) == "openvino"


def test_who_reuses_shares_whole_calls_with_who_does_not(
    engine: TorchEngine, by_openvino: TorchEngine
) -> None:
    fields = {"prompt": "a b c", "num_inference_steps": 6}
    both = {"exact": make_request(**fields), "reused": make_request(**fields, reuse=2)}
    drawn = run(by_openvino, both)
    for key, request in both.items():
        assert worst(pixels(last(drawn[key])), pixels(last(run(engine, {key: request})[key]))) <= 1


def test_merging_is_left_to_torch(engine: TorchEngine, by_openvino: TorchEngine) -> None:
    fields = {"prompt": "a b c", "token_merging": 0.5}
    assert np.array_equal(draw(by_openvino, **fields), draw(engine, **fields))


def test_the_same_request_gives_the_same_bits_each_time(
    models: Path, by_openvino: TorchEngine
) -> None:
    first = draw(by_openvino, prompt="a b c")
    draw(by_openvino, prompt="another", width=96)  # of a size that it has to prepare for
    assert np.array_equal(first, draw(by_openvino, prompt="a b c"))
    other = TorchEngine(models, device="cpu", dtype="fp32", backend="openvino")
    assert np.array_equal(first, draw(other, prompt="a b c"))
    other.close()


def test_a_batch_of_samples_with_other_numbers_of_rows_gives_the_same_pictures(
    by_openvino: TorchEngine,
) -> None:
    requests = {
        "guided": make_request(prompt="a b c", guidance_scale=5),
        "unguided": make_request(prompt="d", guidance_scale=1),
    }
    events = run(by_openvino, requests)
    for key, request in requests.items():
        alone = last(run(by_openvino, {key: request})[key])
        assert worst(pixels(last(events[key])), pixels(alone)) <= 1


# --- who draws ---------------------------------------------------------------------------


def test_the_weights_stay_what_they_are_until_it_is_compiled(
    auto: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph reads them in place: one that is let go of meanwhile would be read all the same."""
    from runai.engine.backends import openvino_backend

    may_begin, held_then, compile_ = threading.Event(), list[bool](), openvino_backend.compiled

    def late(network: Any, dtype: Any, count: int, weights: Any) -> Any:
        assert may_begin.wait(60)
        held_then.append(bool(weights) and all(bool(w.any()) for w in weights if w.dim() > 1))
        return compile_(network, dtype, count, weights)

    monkeypatch.setattr(openvino_backend, "compiled", late)
    draw(auto)
    model = held(auto)
    for part in (model.unet, model.vae.decoder):
        for parameter in part.parameters():
            parameter.data = torch.zeros_like(parameter)
    may_begin.set()
    auto._backends.join()
    assert held_then == [True, True]


def test_torch_draws_until_openvino_has_proven_itself(
    auto: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "FASTER", 1e9)
    expected = draw(engine, prompt="a b c")
    assert np.array_equal(draw(auto, prompt="a b c"), expected)
    auto._backends.join()
    assert np.array_equal(draw(auto, prompt="a b c"), expected)  # the one it is tried at
    assert backend_of(auto) == "torch"
    assert worst(draw(auto, prompt="a b c"), expected) <= 1
    assert backend_of(auto) == "openvino"
    assert auto.holdings().backend_bytes > 0


def test_what_gains_nothing_is_let_go_of(
    auto: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "FASTER", 0)
    for _ in range(3):
        drawn = draw(auto, prompt="a b c")
        auto._backends.join()
    assert np.array_equal(drawn, draw(engine, prompt="a b c"))
    assert (backend_of(auto), auto.holdings().backend_bytes) == ("torch", 0)


def test_a_picture_that_has_begun_stays_with_its_backend(
    auto: TorchEngine, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "FASTER", 1e9)
    draw(auto)
    auto._backends.join()
    auto.admit("early", make_request(prompt="a b c", num_inference_steps=8))
    auto.step()  # the trial
    auto.admit("late", make_request())
    events: list[Any] = []
    while auto.is_busy():
        events += [made(event) for key, event in auto.step() if key == "early"]
    assert backend_of(auto) == "openvino"
    alone = draw(engine, prompt="a b c", num_inference_steps=8)
    assert np.array_equal(pixels(last(events)), alone)


def test_pictures_with_loras_are_drawn_by_torch(
    models: Path, engine: TorchEngine, by_openvino: TorchEngine
) -> None:
    path = models / "lora" / "bold.safetensors"
    draw(engine)
    lora_files.write(path, lora_files.kohya(held(engine), 0))
    for one in (engine, by_openvino):
        one.models()  # looks at the disk
    fields = {"prompt": "a b c", "loras": [{"name": "bold", "weight": 1.0}]}
    drawn = draw(by_openvino, **fields)
    assert np.array_equal(drawn, draw(engine, **fields))
    assert worst(drawn, draw(engine, prompt="a b c")) > 1


def test_small_models_are_left_to_torch(models: Path) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32")
    draw(engine)
    assert engine.holdings().backend_bytes == 0
    engine.close()


def test_where_there_is_no_room_torch_draws(
    auto: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(choice.COPIES, torch.float32, 1e9)
    draw(auto)
    assert auto.holdings().backend_bytes == 0


def test_what_was_made_goes_when_memory_is_short_for_a_request(
    models: Path, engine: TorchEngine
) -> None:
    short = TorchEngine(models, device="cpu", dtype="fp32", backend="openvino")
    for _ in range(2):  # what is planned first does not know the model's buffers
        draw(short, prompt="a b c")
    plan, before = short.newest_memory(), short.holdings()
    assert plan is not None
    assert before.backend_bytes > 0
    # what drawing by torch takes, and not a byte more
    short._cache._max_bytes = plan.needed_bytes + before.prompt_cache_bytes
    assert np.array_equal(draw(short, prompt="a b c"), draw(engine, prompt="a b c"))
    assert (backend_of(short), short.holdings().backend_bytes) == ("torch", 0)
    short.close()


def test_what_was_made_goes_with_its_model(models: Path) -> None:
    engine = TorchEngine(models, device="cpu", dtype="fp32", backend="openvino")
    draw(engine)
    assert len(engine._backends._made) == 2  # of the UNet and of the decoder
    engine._cache.free(())
    assert not engine._backends._made
    engine.close()


def test_an_engine_that_is_closed_while_something_is_made_leaves_no_thread(
    auto: TorchEngine,
) -> None:
    before = threading.enumerate()
    auto.admit("a", make_request())
    assert len(threading.enumerate()) > len(before)
    auto.close()
    assert threading.enumerate() == before


# --- the trial ---------------------------------------------------------------------------


def fast(x: torch.Tensor) -> torch.Tensor:
    return x


def slow(x: torch.Tensor) -> torch.Tensor:
    for _ in range(50):
        torch.ones(200, 200) @ torch.ones(200, 200)
    return x


def failing(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("usual", "other", "good"),
    [
        (slow, fast, True),
        (fast, slow, False),
        (slow, lambda x: x + 0.01, False),
        (slow, lambda x: x * torch.nan, False),
        (slow, failing, False),
    ],
)
def test_only_what_is_quicker_and_says_the_same_is_kept(usual: Any, other: Any, good: bool) -> None:
    verdict = Verdict()
    said = Trial(usual, other, 1e-3, verdict)(torch.ones(3))
    assert verdict.good is good
    assert torch.equal(said, torch.ones(3))


# --- the package -------------------------------------------------------------------------


def test_openvino_tells_nobody_that_it_was_imported(tmp_path: Path) -> None:
    program = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("it goes to the network")
socket.getaddrinfo = socket.create_connection = refuse
from runai.engine.backends import openvino_backend
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
    assert not list(tmp_path.iterdir())


def test_openvino_that_is_asked_for_and_missing_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    with pytest.raises(DependencyMissing, match="not installed"):
        Backends("openvino", CPU, lambda: 0)
    Backends("auto", CPU, lambda: 0).stop()


def test_openvino_on_a_gpu_is_an_error() -> None:
    with pytest.raises(InvalidSetting, match="processor"):
        Backends("openvino", Place(torch.device("cuda"), torch.float16), lambda: 0)


def test_it_is_not_imported_where_torch_is_asked_for(models: Path) -> None:
    program = """
import sys
from pathlib import Path
from runai.engine.engine import TorchEngine
from drawn import draw
engine = TorchEngine(Path(sys.argv[1]), device="cpu", dtype="fp32", backend="torch")
draw(engine)
engine.close()
assert "openvino" not in sys.modules
"""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", program, str(models)],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
