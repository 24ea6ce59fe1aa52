"""What trainers and mergers write into a file's metadata, as far as it is of use.

PURE. Sources: the modelspec (Stability-AI/ModelSpec) and kohya's `ss_` keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

WORTH_SHOWING = (
    "modelspec.title",
    "modelspec.author",
    "modelspec.description",
    "modelspec.license",
    "modelspec.date",
    "modelspec.usage_hint",
    "modelspec.tags",
    "modelspec.resolution",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.trigger_phrase",
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_clip_skip",
    "ss_resolution",
    "ss_num_train_images",
    "ss_epoch",
    "ss_steps",
    "ss_training_comment",
    "name",
    "sd_checkpoint_name",
    "step",
)
MAX_CHARACTERS = 200
MAX_WORDS = 8
MAX_READ = 10_000  # characters of a value in which words are looked for
# words of a name that say how a model was distilled to few steps
DISTILLATIONS = {"turbo": "turbo", "lightning": "lightning", "lcm": "lcm", "hyper": "hyper"}
_SAID = ("modelspec.title", "modelspec.tags", "modelspec.merged_from", "modelspec.description")
# words are cut at digits, signs and capitals: `FooXL_v2TurboDPM` holds `Turbo`
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def shortened(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What is worth showing, each value on one line of at most `MAX_CHARACTERS`."""
    found = {
        key: " ".join(str(metadata[key])[:MAX_READ].split())
        for key in WORTH_SHOWING
        if metadata.get(key)
    }
    return {
        key: text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
        for key, text in found.items()
        if text not in ("None", "")
    }


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What it answers to: the stated phrase, then the most frequent tags of its training."""
    stated = metadata.get("modelspec.trigger_phrase", "")[:MAX_READ].split(",")
    words = [*stated, *_frequent(metadata.get("ss_tag_frequency", ""))]
    kept = dict.fromkeys(" ".join(word.split())[:MAX_CHARACTERS] for word in words)
    return tuple(word for word in kept if word and word.isprintable())[:MAX_WORDS]


def _frequent(text: str) -> list[str]:
    """The tags of kohya's {data set: {tag: count}}, the most frequent first."""
    try:
        sets = from_json(text) if text else {}
        total: Counter[str] = Counter()
        for tags in sets.values():
            total.update({tag: int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        return []
    return [tag for tag, _ in total.most_common(MAX_WORDS)]


def prediction_in(metadata: Mapping[str, str]) -> str | None:
    """`epsilon` or `v_prediction` if the metadata says so."""
    said = _PREDICTIONS.get(str(metadata.get("modelspec.prediction_type", "")).lower())
    if said is None and "768-v" in str(metadata.get("modelspec.architecture", "")):
        return "v_prediction"
    return said


def distillation_in(metadata: Mapping[str, str]) -> str | None:
    """The distillation that the metadata speaks of."""
    return next(
        filter(None, (distillation_of(str(metadata.get(key, ""))[:MAX_READ]) for key in _SAID)),
        None,
    )


def distillation_of(name: str) -> str | None:
    """The distillation that a name speaks of. Good enough to choose defaults, no more."""
    words = (word.lower() for word in _WORDS.findall(name))
    return next((DISTILLATIONS[word] for word in words if word in DISTILLATIONS), None)
