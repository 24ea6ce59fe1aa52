"""What encoding a prompt costs, against finding it among those that were encoded before.

    python benchmarks/prompt_cache.py [--full] [--prompt TEXT] [--rounds 20]

Both go the whole way from request to conditioning, positive and negative prompt: parsing,
tokens, what the text encoder says, weights. Without --full the example model is used; with it
a text encoder of Stable Diffusion 1's size with random weights (CLIP ViT-L/14, 123 million
parameters) and the example model's tokens.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from example import example_model
from side_by_side import compare
from transformers import CLIPTextConfig, CLIPTextModel

from runai.engine.archs import ARCHS
from runai.engine.model import LoadedModel
from runai.engine.prompts import Prompts
from runai.schema.requests import TextToImage

PROMPT = "a (large:1.2) red circle, a [small] blue square on a yellow ground"


def example(full: bool) -> LoadedModel:
    model = example_model()
    if not full:
        return model
    (text,) = model.texts
    tokens = {
        "bos_token_id": text.tokenizer.bos_token_id,
        "eos_token_id": text.tokenizer.eos_token_id,
    }
    config = CLIPTextConfig(**{**ARCHS["sd1"].texts[0].config, **tokens})
    network = CLIPTextModel(config).to(model.device, model.dtype).eval()
    return replace(model, texts=(replace(text, network=network),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    model = example(args.full)
    request = TextToImage(id="b", prompt=args.prompt, negative_prompt="blurry, grey")
    choices = model.defaults.overridden_by(request)

    def timed(prompts: Prompts) -> float:
        began = time.perf_counter()
        prompts.encode(model, request, choices)
        return time.perf_counter() - began

    kept, none = Prompts(64 << 20), Prompts(0)
    encoder = "CLIP ViT-L/14's size" if args.full else "the example's"
    compare(
        f"encoding a prompt against knowing it, text encoder {encoder}, {model.dtype}",
        lambda: timed(none),
        lambda: timed(kept),
        rounds=args.rounds,
    ).show()


if __name__ == "__main__":
    main()
