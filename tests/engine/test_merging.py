"""Token merging: which tokens become one, what comes of them, and who sees fewer."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from drawn import draw, held, last, make_request, pixels, run
from reference import worst

from runai.engine import merging, step_loop
from runai.engine.engine import TorchEngine
from runai.engine.images import infotext
from runai.errors import InvalidField

FIELDS = {"prompt": "a b c", "negative_prompt": "d"}


def random_tokens(rows: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, height * width, 5, generator=generator)


def by_hand(tokens: torch.Tensor, height: int, width: int, ratio: float) -> torch.Tensor:
    """What each token of one row becomes: its own, or the mean of those that it was merged with."""
    stand = [y * width + x for y in range(0, height, 2) for x in range(0, width, 2)]
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    nearest = {}
    for i in set(range(height * width)) - set(stand):
        likeness = {s: float(unit[i] @ unit[s]) for s in stand}
        nearest[i] = max(likeness.items(), key=lambda pair: pair[1])
    gone = sorted(nearest, key=lambda i: -nearest[i][1])[: int(height * width * ratio)]
    groups = {s: [s, *(i for i in gone if nearest[i][0] == s)] for s in stand}
    said = tokens.clone()
    for members in groups.values():
        said[members] = tokens[members].mean(dim=0)
    return said


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 8), (5, 7)])
@pytest.mark.parametrize("block", [1024, 7])
def test_those_most_alike_are_averaged(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, ratio: float, block: int
) -> None:
    monkeypatch.setattr(merging, "_BLOCK", block)
    tokens = random_tokens(2, height, width)
    merge = merging.plan(tokens, height, width, ratio)
    fewer = merge.merged(tokens)
    standing = -(-height // 2) * -(-width // 2)
    others = height * width - standing
    assert fewer.shape[1] == height * width - min(int(height * width * ratio), others)
    for row, said in zip(tokens, merge.unmerged(fewer), strict=True):
        assert torch.allclose(said, by_hand(row, height, width, ratio), atol=1e-6)


def test_what_is_alike_loses_nothing() -> None:
    tokens = random_tokens(1, 3, 3).view(1, 3, 3, 5)
    squares = tokens.repeat_interleave(2, 1).repeat_interleave(2, 2).view(1, 36, 5)
    merge = merging.plan(squares, 6, 6, 0.75)
    assert merge.merged(squares).shape[1] == 9
    assert torch.allclose(merge.unmerged(merge.merged(squares)), squares, atol=1e-6)


def test_a_row_is_merged_by_itself() -> None:
    both = torch.cat([random_tokens(1, 4, 4, seed) for seed in (1, 2)])
    together = merging.plan(both, 4, 4, 0.5)
    for row in (0, 1):
        alone = both[row : row + 1]
        merge = merging.plan(alone, 4, 4, 0.5)
        assert torch.equal(merge.merged(alone)[0], together.merged(both)[row])


def tokens_read(unet: Any, ratio: float) -> dict[str, int]:
    """How many tokens each attention of a UNet reads, by name."""
    found: dict[str, int] = {}
    hooks = [
        module.to_q.register_forward_hook(
            lambda _, given, __, name=name: found.update({name: given[0].shape[1]})
        )
        for name, module in unet.named_modules()
        if name.endswith(("attn1", "attn2"))
    ]
    config = unet.config
    text = torch.randn(4, 77, config.cross_attention_dim)
    times = torch.tensor([1.0, 300.0, 700.0, 999.0])
    with torch.no_grad(), merging.merging(unet, ratio):
        unet(torch.randn(4, 4, 8, 8), times, text, **tiny._told(config))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("arch", "finest", "whole"),
    [("sd1", ("down_blocks.0", "up_blocks.1"), 64), ("sdxl", ("down_blocks.1", "up_blocks.0"), 16)],
)
def test_only_self_attention_where_the_picture_is_finest_sees_fewer(
    arch: str, finest: tuple[str, ...], whole: int
) -> None:
    unet = tiny.make_unet(tiny.unet_config(**tiny.MODELS[arch].unet))
    all_of_them, fewer = tokens_read(unet, 0.001), tokens_read(unet, 0.5)
    for name, count in fewer.items():
        if name.startswith(finest) and name.endswith("attn1"):
            assert (all_of_them[name], count) == (whole, whole // 2)
        else:
            assert count == all_of_them[name]
    assert any(name.startswith("mid_block") for name in fewer)


@torch.no_grad()
def test_without_a_token_that_goes_the_answer_is_the_unets_own(engine: TorchEngine) -> None:
    draw(engine)
    unet = held(engine).unet
    given = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 700.0]), torch.randn(2, 77, tiny.WIDTH)
    said = unet(*given).sample
    with merging.merging(unet, 0.001):
        assert torch.allclose(unet(*given).sample, said, atol=1e-5)
    with merging.merging(unet, 0.5):
        assert not torch.allclose(unet(*given).sample, said, atol=1e-3)
    assert torch.equal(unet(*given).sample, said)


@pytest.mark.parametrize("reuse", [1, 2])
def test_a_picture_drawn_among_others_is_the_one_drawn_alone(
    engine: TorchEngine, reuse: int
) -> None:
    mine = {**FIELDS, "token_merging": 0.5, "reuse": reuse}
    alone = draw(engine, **mine)
    exact = draw(engine, **FIELDS)
    assert worst(alone, exact) > 1
    crowd = {
        "exact": make_request(**FIELDS),
        "alike": make_request(seed=2, token_merging=0.5),
        "other": make_request(seed=3, token_merging=0.25),
    }
    together = run(engine, {**crowd, "mine": make_request(**mine)})
    assert worst(pixels(last(together["mine"])), alone) <= 1
    assert worst(pixels(last(together["exact"])), exact) <= 1


def test_other_ratios_do_not_share_a_call(engine: TorchEngine) -> None:
    for ratio in (0.0, 0.25, 0.5):
        engine.admit(str(ratio), make_request(token_merging=ratio))
    samples = [drawing.samples[0] for drawing in engine._drawings.values()]
    assert len({step_loop.key_of(sample) for sample in samples}) == 3
    for ratio in (0.0, 0.25, 0.5):
        engine.drop(str(ratio))


def test_a_picture_says_it_in_the_web_uis_words(engine: TorchEngine) -> None:
    for ratio, said in ((0.5, True), (0.0, False)):
        done = last(run(engine, {"k": make_request(token_merging=ratio)})["k"])
        text = infotext(done.parameters.model_dump(exclude_none=True))
        assert ("Token merging ratio: 0.5" in text) == said


@pytest.mark.parametrize("ratio", [-0.1, 0.76, "half"])
def test_what_is_no_ratio_is_refused(ratio: object) -> None:
    with pytest.raises(InvalidField) as caught:
        make_request(token_merging=ratio)
    assert caught.value.field == "token_merging"
