"""Which backend draws a picture, decided when it is admitted.

Theory of operation. `auto`: when a large model is first drawn with, OpenVINO's form of its UNet
and of its decoder is made in the background, where there is room, while torch draws. Once it is
there it has to prove itself (`trial`), else it is let go of. Pictures that are admitted from then
on are drawn by it. `openvino`: it is made before the first picture, and draws all it can.

What it cannot do, torch does: pictures with LoRAs or merged tokens, decoding in tiles or by a tiny
autoencoder, numbers that the processor does not compute in, and networks with a layer that is not
among `layers`.

On CUDA `auto` has torch's own calls of the UNet recorded and played (`recording`), where all
weights stay on the device and no LoRAs are added.

Rules: what is made goes with the network it was made of, and holds no name for it. One thread,
but for `by_name` and `recorded_bytes`; what the background works on is a Future.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from runai.engine.backends.cuda_graphs import CudaGraphs
from runai.engine.backends.interface import Networks
from runai.engine.backends.recording import RecordedUnets, Recorder
from runai.engine.backends.torch_backend import torch_networks
from runai.engine.backends.trial import SAME, DenoiserTrial, Trial, Verdict
from runai.engine.devices import Place
from runai.engine.loras import LoraSet
from runai.engine.model import LoadedModel
from runai.engine.plan import Plan
from runai.errors import DependencyMissing, InvalidSetting
from runai.schema.events import Backend

log = logging.getLogger(__name__)
Wanted = Literal["auto", "torch", "openvino"]
# what OpenVINO's form takes, as a multiple of torch's weights: as measured with Stable Diffusion
# 1.5, in bf16 by a processor that keeps everything as fp32 besides
COPIES = {torch.float32: 1.1, torch.bfloat16: 4.0}
# what walking an unusual network, or starting a thread, may raise
FAULTS = (RuntimeError, AttributeError, TypeError, ValueError, LookupError)
RECORDERS: Mapping[str, Callable[[torch.device], Recorder]] = {"cuda": CudaGraphs}
Wrap = Callable[[Any], Any]  # what was compiled, as a Denoiser or Decoder


@dataclass(eq=False)
class _Made:
    """OpenVINO's form of one network of a model. `coming`: None where there will be none."""

    model: str
    bytes: int
    coming: Future[Any] | None = None
    verdict: Verdict = field(default_factory=Verdict)

    def give_up(self, reason: str) -> None:
        self.coming, self.bytes = None, 0
        log.info("Torch goes on drawing %s, OpenVINO does not: %s", self.model, reason)


class Backends:
    """`spare_bytes`: what can be had with nothing let go of. Raises DependencyMissing or
    InvalidSetting where what is wanted cannot be.
    """

    def __init__(self, wanted: Wanted, place: Place, spare_bytes: Callable[[], int]) -> None:
        _check(wanted, place)
        on_processor = place.device.type == "cpu" and place.dtype in COPIES
        self._used = wanted != "torch" and on_processor and is_installed() and _can_be_imported()
        self._at_once = wanted == "openvino"
        self._dtype = place.dtype
        self._spare_bytes = spare_bytes
        self._made: WeakKeyDictionary[nn.Module, _Made] = WeakKeyDictionary()
        self._background = ThreadPoolExecutor(1, "openvino")
        recorder = RECORDERS.get(place.device.type) if wanted == "auto" else None
        self._recorded = recorder and RecordedUnets(recorder(place.device), spare_bytes)
        self.by_name: Mapping[str, Backend] = {}

    @property
    def byte_size(self) -> int:
        """Of all that is made, by estimate, and recorded."""
        return sum(made.bytes for made in self._made.values()) + self.recorded_bytes

    @property
    def recorded_bytes(self) -> int:
        """What torch keeps for recordings on the device, and counts as unused. Any thread."""
        return self._recorded.bytes if self._recorded else 0

    def networks(self, model: LoadedModel, plan: Plan, loras: LoraSet, reuse: int) -> Networks:
        """What the samples of a request are drawn by. `reuse`: see `Sample`."""
        chosen = torch_networks(model)
        if self._recorded and not plan.keeps_on_device:
            self._recorded.forget(model.unet)  # whose weights will not be where they were
        if loras:
            return chosen
        # a small UNet's pictures are done before it would be compiled
        if self._used and (self._at_once or not model.is_small):
            chosen = self._by_openvino(model, plan, chosen)
        elif self._recorded and plan.keeps_on_device and reuse == 1:
            denoiser = self._recorded.denoiser(chosen.denoiser, model.unet, plan.work)
            chosen = replace(chosen, denoiser=denoiser)
        self.by_name = {**self.by_name, model.name: chosen.denoiser.backend}
        return chosen

    def forget_recordings(self) -> bool:
        """Whether there were any. They are made anew where there is room."""
        return self._recorded.forget() if self._recorded else False

    def let_go(self) -> bool:
        """Of all that is made, or being made; whether there was any. Who draws by it goes on."""
        gone = [network for network, made in self._made.items() if made.coming is not None]
        for network in gone:
            del self._made[network]
        self.by_name = {}
        return bool(gone)

    def join(self) -> None:
        """Wait until everything that was begun is made."""
        wait([made.coming for made in self._made.values() if made.coming is not None])

    def stop(self) -> None:
        """Wait for what is being made, seconds: it cannot be interrupted. Nothing is made then."""
        self._used = False
        self._background.shutdown(cancel_futures=True)

    # --- within ------------------------------------------------------------------------

    def _by_openvino(self, model: LoadedModel, plan: Plan, usual: Networks) -> Networks:
        from runai.engine.backends import graph, openvino_backend

        unet, vae, decoder = model.unet, model.vae, usual.decoder
        denoiser = self._chosen(
            self._made_of(model, unet, plan, lambda: graph.of_unet(unet)),
            usual.denoiser,
            lambda parts: openvino_backend.OpenVinoDenoiser(unet, parts),
            DenoiserTrial,
        )
        if not plan.tiled and model.tiny is None:
            made = self._made_of(model, vae.decoder, plan, lambda: graph.of_decoder(vae))
            decoder = self._chosen(made, decoder, openvino_backend.OpenVinoDecoder, Trial)
        return Networks(denoiser, decoder)

    def _made_of(
        self, model: LoadedModel, network: nn.Module, plan: Plan, write: Callable[[], Any]
    ) -> _Made | None:
        """What there is, or is begun now; None where there is no room for it now."""
        if network in self._made:
            return self._made[network]
        needed = round(COPIES[self._dtype] * sum(p.nbytes for p in network.parameters()))
        if self._spare_bytes() < needed + plan.work.peak_bytes(tiled=plan.tiled):
            return None
        made = self._made[network] = _Made(model.name, needed)
        # detached: they stay what they are if the network goes, or is given others, meanwhile
        weights = [t.detach() for t in (*network.parameters(), *network.buffers())]
        self._begin(made, write, weights)
        return made

    def _begin(
        self, made: _Made, write: Callable[[], Any], weights: Sequence[torch.Tensor]
    ) -> None:
        """The graph is written here, since only this thread may look at the networks. It reads
        their `weights` in place, which are held until it is compiled.
        """
        from runai.engine.backends import layers, openvino_backend

        if not openvino_backend.can_compute(self._dtype):
            return made.give_up(f"this processor does not compute in {self._dtype}")
        try:
            given = write(), self._dtype, torch.get_num_threads(), weights
            made.coming = self._background.submit(openvino_backend.compiled, *given)
        except layers.Unknown as unknown:
            return made.give_up(f"it has {unknown}")
        except FAULTS as error:  # no thread can be had, or a network is odd
            return made.give_up(_words(error))
        if self._at_once:
            wait([made.coming])
        return None

    def _chosen(
        self, made: _Made | None, usual: Any, wrap: Wrap, trial: Callable[..., Trial]
    ) -> Any:
        if made is None or made.coming is None or not made.coming.done():
            return usual
        if (error := made.coming.exception()) is not None:
            made.give_up(_words(error))
            return usual
        if made.verdict.good is False:
            made.give_up(made.verdict.reason)
            return usual
        other = wrap(made.coming.result())
        if self._at_once or made.verdict.good:
            return other
        return trial(usual, other, SAME[self._dtype], made.verdict)


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _can_be_imported() -> bool:
    """Whether what is installed by this name is what is needed."""
    try:
        from runai.engine.backends import graph, openvino_backend  # noqa: F401
    except (ImportError, AttributeError) as error:
        log.warning("OpenVINO is not used, for it cannot be imported: %s", error)
        return False
    return True


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _check(wanted: Wanted, place: Place) -> None:
    if wanted != "openvino":
        return
    if not is_installed():
        raise DependencyMissing(
            "OpenVINO is not installed.",
            hint="Run: pip install openvino; or use --backend auto.",
            field="backend",
        )
    if place.device.type != "cpu":
        raise InvalidSetting(
            f"OpenVINO draws on the processor, not on {place.device}.",
            hint="Use --device cpu with --backend openvino, or --backend auto.",
            field="backend",
        )
