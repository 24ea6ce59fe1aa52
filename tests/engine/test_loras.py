"""LoRAs of every form draw what diffusers draws with them, and leave nothing behind.

Compared are the networks' own outputs, whose numbers a picture rounds away; pictures are
compared in test_loras_drawn.
"""

from __future__ import annotations

import gc
import json
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import lora_files
import pytest
import tiny
import torch

from runai.engine import loading, loras, loras_files
from runai.engine.catalogue import Catalogue
from runai.engine.devices import Place
from runai.engine.loras import LoraShelf
from runai.engine.model import LoadedModel
from runai.errors import InvalidField, ModelBroken, ModelUnsafe, ModelUnsupported, OutOfMemory
from runai.schema.requests import Lora

PLACE = Place(torch.device("cpu"), torch.float32)
ARCHS = {"sd1": "v1", "sdxl": "xl", "sd2": "v2"}
CLOSE = 2e-5  # of outputs with a spread of about 1
Outputs = list[torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    for arch, version in ARCHS.items():
        tiny.write_model(folder / version / "plain", arch)
    return folder


@pytest.fixture(scope="module")
def catalogue(base: Path) -> Catalogue:
    return Catalogue([base])


@pytest.fixture
def models(catalogue: Catalogue, base: Path) -> dict[str, LoadedModel]:
    return {
        arch: loading.load(catalogue.find(f"{version}/plain"), PLACE, [base])
        for arch, version in ARCHS.items()
    }


@pytest.fixture
def shelf(catalogue: Catalogue) -> LoraShelf:
    return LoraShelf(catalogue)


@torch.no_grad()
def said(unet: Any, texts: list[Any]) -> Outputs:
    """What the networks of a model answer to the same questions."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(2, 4, 8, 8, generator=generator)
    width = unet.config.cross_attention_dim
    words = torch.randn(2, 77, width, generator=generator)
    told: dict[str, Any] = {}
    if unet.config.addition_embed_type:
        pooled = torch.randn(2, tiny.WIDTH, generator=generator)
        told = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}}
    answers = [unet(noise, torch.tensor([300.0, 700.0]), words, **told).sample]
    ids = torch.randint(0, 60, (1, 77), generator=generator)
    return answers + [text(ids).last_hidden_state for text in texts]


def ours(model: LoadedModel) -> Outputs:
    return said(model.unet, [text.network for text in model.texts])


def theirs(base: Path, arch: str, files: dict[str, Any], weights: dict[str, Any]) -> Outputs:
    """diffusers' answers with these adapters at these weights."""
    folder = base / ARCHS[arch] / "plain"
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, path in files.items():
            pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipe.set_adapters(list(weights), list(weights.values()))
    texts = [pipe.text_encoder]
    if arch == "sdxl":
        texts.append(pipe.text_encoder_2)
    return said(pipe.unet, texts)


def worst(left: Outputs, right: Outputs) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


def put(base: Path, name: str, tensors: lora_files.Tensors, **more: Any) -> Path:
    return lora_files.write(base / "lora" / name, tensors, **more)


CASES = [
    *((arch, form) for arch in ("sd1", "sd2") for form in ("kohya", "peft", "older diffusers")),
    # of SDXL, kohya's files have the original's names, and diffusers knows them so only
    *(("sdxl", form) for form in ("kohya, original names", "peft", "older diffusers")),
]


@pytest.mark.parametrize(("arch", "form"), CASES)
def test_networks_say_what_diffusers_has_them_say(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, arch: str, form: str
) -> None:
    model = models[arch]
    path = put(base, f"{arch} {form}.safetensors", lora_files.FORMS[form](model))
    without = ours(model)
    shelf.activate(model, shelf.prepare(model, [Lora(name=path.stem, weight=0.8)]))
    got = ours(model)
    assert all(float((a - b).abs().max()) > 0.05 for a, b in zip(without, got, strict=True))
    assert worst(got, theirs(base, arch, {"a": path}, {"a": 0.8})) < CLOSE
    shelf.activate(model, ())
    assert worst(without, ours(model)) == 0.0


def test_a_dora_fades_to_the_model_itself(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    put(base, "dora.safetensors", lora_files.with_magnitudes(lora_files.kohya(model)))
    plain = ours(model)
    apart = [
        worst(plain, with_loras(shelf, model, Lora(name="dora", weight=weight)))
        for weight in (0.0, 0.01, 0.1)
    ]
    assert apart[0] == 0.0
    assert 0.0 < apart[1] < apart[2]


def with_loras(shelf: LoraShelf, model: LoadedModel, *wanted: Lora) -> Outputs:
    """The networks' answers with these; afterwards there is none in force."""
    shelf.activate(model, shelf.prepare(model, wanted))
    got = ours(model)
    shelf.activate(model, ())
    return got


@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
def test_a_layer_is_the_same_under_all_its_names(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, arch: str
) -> None:
    model = models[arch]
    ours_named = lora_files.kohya(model, alpha=float(lora_files.RANK))
    put(base, f"{arch}-1.safetensors", ours_named)
    put(base, f"{arch}-2.safetensors", lora_files.kohya(model, original=True, alpha=3.0))
    put(base, f"{arch}-3.safetensors", lora_files.dotted(model))
    wrapped = {k.replace("lora_unet_", "lycoris_"): v for k, v in ours_named.items()}
    put(base, f"{arch}-4.safetensors", wrapped)
    first, second, third, fourth = (
        with_loras(shelf, model, Lora(name=f"{arch}-{i}")) for i in (1, 2, 3, 4)
    )
    assert worst(first, second) == 0.0
    assert worst(first, fourth) == 0.0
    assert worst(first[:1], third[:1]) == 0.0
    assert worst(ours(model)[:1], third[:1]) > 0.05


def test_several_add_up_each_with_its_own_weights(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    a = put(base, "several-a.safetensors", lora_files.peft(model, seed=1))
    b = put(base, "several-b.safetensors", lora_files.peft(model, seed=2))
    got = with_loras(
        shelf,
        model,
        Lora(name="several-a", weight=0.7, text_weight=0.4),
        Lora(name="several-b", weight=-0.5),
    )
    weights = {"a": {"unet": 0.7, "text_encoder": 0.4}, "b": {"unet": -0.5, "text_encoder": -0.5}}
    assert worst(got, theirs(base, "sd1", {"a": a, "b": b}, weights)) < CLOSE


def test_the_text_weight_alone_decides_over_the_text_encoder(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    put(base, "both.safetensors", lora_files.kohya(model))
    plain = ours(model)
    picture = with_loras(shelf, model, Lora(name="both", text_weight=0.0))
    words = with_loras(shelf, model, Lora(name="both", weight=0.0, text_weight=1.0))
    assert worst(picture[1:], plain[1:]) == 0.0
    assert worst(picture[:1], plain[:1]) > 0.05
    assert worst(words[:1], plain[:1]) == 0.0
    assert worst(words[1:], plain[1:]) > 0.05


def test_one_for_the_text_encoder_alone_works(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    whole = lora_files.kohya(model)
    ends = ("q_proj", "v_proj")
    part = {k: v for k, v in whole.items() if "lora_te" in k and k.split(".")[0].endswith(ends)}
    put(base, "words.safetensors", part)
    got, plain = with_loras(shelf, model, Lora(name="words")), ours(model)
    assert worst(got[:1], plain[:1]) == 0.0
    assert worst(got[1:], plain[1:]) > 0.05


def test_sets_alternate_without_a_trace_of_each_other(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    weights = {name: value.clone() for name, value in model.unet.state_dict().items()}
    put(base, "one.safetensors", lora_files.kohya(model, seed=1))
    put(base, "two.safetensors", lora_files.peft(model, seed=2))
    plain = ours(model)
    sets = [shelf.prepare(model, [Lora(name=name)]) for name in ("one", "two")]
    sets += [shelf.prepare(model, [Lora(name="one"), Lora(name="two", weight=0.5)]), ()]
    alone = []
    for loras_ in sets:
        shelf.activate(model, loras_)
        alone.append(ours(model))
    assert worst(alone[-1], plain) == 0.0
    for index in (2, 0, 3, 1, 0, 2):
        shelf.activate(model, sets[index])
        assert worst(ours(model), alone[index]) == 0.0
    assert list(model.unet.state_dict()) == list(weights)
    assert all(torch.equal(v, weights[k]) for k, v in model.unet.state_dict().items())


def test_equal_sets_are_equal_whatever_their_order(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    put(base, "p.safetensors", lora_files.peft(model, seed=1))
    put(base, "q.safetensors", lora_files.peft(model, seed=2))
    p, q = Lora(name="p", weight=0.5), Lora(name="q")
    both = shelf.prepare(model, [p, q])
    assert both == shelf.prepare(model, [q, p])
    assert hash(both) == hash(shelf.prepare(model, [q, p]))
    assert both != shelf.prepare(model, [q])
    assert both != shelf.prepare(model, [Lora(name="p", weight=0.6), q])
    assert shelf.prepare(model, [p, q, p]) == shelf.prepare(model, [Lora(name="p"), q])
    assert shelf.prepare(model, [Lora(name="p", weight=0.0)]) == ()


def test_only_what_changes_the_text_is_in_the_text_key(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    whole = lora_files.kohya(model)
    put(base, "whole.safetensors", whole)
    put(base, "unet.safetensors", {k: v for k, v in whole.items() if "lora_te" not in k})

    def key(*wanted: Lora) -> Any:
        return loras.text_key(shelf.prepare(model, wanted))

    assert key(Lora(name="unet")) == () == key(Lora(name="whole", text_weight=0.0))
    assert key(Lora(name="whole")) == key(Lora(name="whole", weight=0.5, text_weight=1.0))
    assert key(Lora(name="whole")) != key(Lora(name="whole", text_weight=0.5))


# --- what does not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_for", "used_with"), [("sd1", "sd2"), ("sd1", "sdxl"), ("sdxl", "sd1")]
)
def test_one_for_another_arch_is_refused_and_both_are_named(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, made_for: str, used_with: str
) -> None:
    # all tiny models are equally wide; a real one of another arch never is
    tensors = lora_files.kohya(models[made_for])
    wide = {k: v.repeat(1, 2) if k.endswith("attn2_to_k.lora_down.weight") else v
            for k, v in tensors.items()}  # fmt: skip
    put(base, "foreign.safetensors", wide)
    with pytest.raises(ModelUnsupported, match=f"foreign.*LoRA for .*{used_with}") as caught:
        shelf.prepare(models[used_with], [Lora(name="foreign")])
    assert caught.value.field == "loras"


def test_what_it_was_made_for_is_named_where_the_file_tells(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    real = {f"{layer}.lora_down.weight": torch.ones(4, 768),
            f"{layer}.lora_up.weight": torch.ones(320, 4)}  # fmt: skip
    put(base, "real.safetensors", real)
    with pytest.raises(ModelUnsupported, match=r"a LoRA for sd1 and does not .*which is sd2"):
        shelf.prepare(models["sd2"], [Lora(name="real")])


def test_one_of_which_nothing_fits_is_refused(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    put(base, "nothing.safetensors", {"a.lora_down.weight": torch.ones(1, 2),
                                      "a.lora_up.weight": torch.ones(2, 1)})  # fmt: skip
    with pytest.raises(ModelUnsupported, match="none of its layers"):
        shelf.prepare(models["sd1"], [Lora(name="nothing")])


def test_layers_the_model_does_not_have_are_counted(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    tensors = lora_files.peft(model)
    stranger = {"unet.extra.lora_A.weight": torch.ones(1, 2), "unet.extra.lora_B.weight":
                torch.ones(2, 1), "unet.conv_in.odd": torch.ones(1)}  # fmt: skip
    put(base, "more.safetensors", {**tensors, **stranger})
    prepared = shelf.prepare(model, [Lora(name="more")])
    [note] = loras.notes(prepared)
    assert note.startswith("2 of the layers in the LoRA lora/more were not used")
    put(base, "exact.safetensors", tensors)
    assert loras.notes(shelf.prepare(model, [Lora(name="exact")])) == ()
    assert worst(with_loras(shelf, model, Lora(name="exact")), plain_more(shelf, model)) == 0.0


def plain_more(shelf: LoraShelf, model: LoadedModel) -> Outputs:
    return with_loras(shelf, model, Lora(name="more"))


def test_a_kind_that_is_not_known_is_named(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    put(base, "oft.safetensors", {"lora_unet_conv_in.oft_blocks": torch.ones(1, 2, 2)})
    with pytest.raises(ModelUnsupported, match="oft is of the kind OFT"):
        shelf.prepare(models["sd1"], [Lora(name="oft")])


def test_old_files_are_read_and_hostile_ones_are_not(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    put(base, "new.safetensors", lora_files.kohya(model))
    put(base, "old.pt", lora_files.kohya(model))
    assert worst(with_loras(shelf, model, Lora(name="new")),
                 with_loras(shelf, model, Lora(name="old"))) == 0.0  # fmt: skip
    put(base, "hostile.pt", {"lora_unet_conv_in.alpha": Path.cwd})  # type: ignore[dict-item]
    with pytest.raises(ModelUnsafe):
        shelf.prepare(model, [Lora(name="hostile")])
    (base / "lora" / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(ModelBroken):
        shelf.prepare(model, [Lora(name="broken")])


_ALPHAS = [
    "abc",
    "[1]",
    '{"unet.alpha_pattern": "abc"}',
    '{"unet.alpha_pattern": {"to_k": null}}',
    '{"unet.alpha_pattern": {"to_k": {}}}',
    '{"unet.lora_alpha": "abc"}',
    '{"unet.lora_alpha": 1e999}',
    '{"unet.lora_alpha": 1' + "0" * 400 + "}",
    "[" * 10_000,
]


@pytest.mark.parametrize("said_", _ALPHAS, ids=lambda text: text[:40])
def test_alphas_that_are_no_numbers_are_a_broken_file(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, said_: str
) -> None:
    metadata = {"lora_adapter_metadata": said_}
    put(base, "alphas.safetensors", lora_files.peft(models["sd1"]), metadata=metadata)
    with pytest.raises(ModelBroken, match="alphas") as caught:
        shelf.prepare(models["sd1"], [Lora(name="alphas")])
    assert caught.value.field == "loras"


def test_of_alphas_for_layers_the_first_that_fits_counts(models: dict[str, LoadedModel]) -> None:
    said_ = {"unet.lora_alpha": 3, "unet.alpha_pattern": {"to_k": 5, "attn1.to_k": 6, "o_q": 7}}
    content = loras_files.sort({}, {"lora_adapter_metadata": json.dumps(said_)}, "a file")
    names = ("mid_attn1_to_k", "to_k", "mid_attn1_to_q", "attn1_to_k")
    assert [content.alpha_of(("unet", name)) for name in names] == [5, 5, 3, 5]
    assert content.alpha_of(("text1", "to_k")) is None


@pytest.mark.parametrize("role", ["lora_down.weight", "lora_up.weight", "alpha"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_a_broken_file(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, role: str, value: float
) -> None:
    tensors = lora_files.kohya(models["sd1"])
    tensors[f"lora_unet_conv_in.{role}"].view(-1)[-1] = value
    put(base, "endless.safetensors", tensors)
    with pytest.raises(ModelBroken, match=r"endless .*not finite.*conv_in") as caught:
        shelf.prepare(models["sd1"], [Lora(name="endless")])
    assert caught.value.field == "loras"


def test_numbers_too_large_for_the_models_dtype_are_refused(
    base: Path, catalogue: Catalogue, shelf: LoraShelf
) -> None:
    half = Place(torch.device("cpu"), torch.float16)
    model = loading.load(catalogue.find("v1/plain"), half, [base])
    tensors = lora_files.kohya(model)
    tensors["lora_unet_conv_in.lora_up.weight"] *= 1e9
    put(base, "large.safetensors", tensors)
    with pytest.raises(ModelBroken, match=r"not finite in float16"):
        shelf.prepare(model, [Lora(name="large")])


@pytest.mark.parametrize("role", ["scalar", "lokr_w2", "hada_t1", "hada_w1_b"])
def test_part_of_an_addition_is_not_used(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf, role: str
) -> None:
    model = models["sd1"]
    tensors = lora_files.peft(model)
    put(base, "part.safetensors", tensors | {f"lora_unet_conv_in.{role}": torch.ones(1)})
    loras_ = shelf.prepare(model, [Lora(name="part")])
    shelf.activate(model, loras_)
    assert ours(model)
    assert "1 of the layers" in loras.notes(loras_)[0]


def test_weights_of_one_file_stay_within_their_bounds_together(
    base: Path, catalogue: Catalogue, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    put(base, "sum.safetensors", lora_files.kohya(models["sd1"]))
    entry = models["sd1"].entry
    for first, second in ((6, 5), (-6, -5)):
        with pytest.raises(InvalidField, match=r"sum.* -?11") as caught:
            shelf.check(entry, [Lora(name="sum", weight=w) for w in (first, second)])
        assert caught.value.field == "loras"
    with pytest.raises(InvalidField, match="text"):
        shelf.check(entry, [Lora(name="sum", weight=0, text_weight=6)] * 2)
    shelf.check(entry, [Lora(name="sum", weight=w) for w in (6, 5, -1)])


def test_damaged_files_are_the_field_s_fault(
    base: Path, shelf: LoraShelf, models: dict[str, LoadedModel]
) -> None:
    (base / "lora" / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(ModelBroken, match="bad") as caught:
        shelf.prepare(models["sd1"], [Lora(name="bad")])
    assert caught.value.field == "loras"


# --- memory ------------------------------------------------------------------------------


def test_the_longest_unused_are_forgotten_but_none_that_is_in_use(
    base: Path, models: dict[str, LoadedModel], catalogue: Catalogue
) -> None:
    model = models["sd1"]
    for i in range(3):
        put(base, f"m{i}.safetensors", lora_files.peft(model, seed=i))
    whole = LoraShelf(catalogue)
    whole.prepare(model, [Lora(name="m0")])
    shelf = LoraShelf(catalogue, max_bytes=2 * whole.byte_size)
    held = shelf.prepare(model, [Lora(name="m0")])
    forgotten = weakref.ref(shelf.prepare(model, [Lora(name="m1")])[0].adapter)
    shelf.prepare(model, [Lora(name="m2")])
    assert shelf.byte_size == 3 * whole.byte_size  # one is not kept, but held
    assert forgotten() is not None
    again = shelf.prepare(model, [Lora(name="m0")])
    assert again[0].adapter is held[0].adapter  # not read a second time
    assert forgotten() is None
    plain = ours(model)
    shelf.activate(model, held)
    assert worst(ours(model)[:1], plain[:1]) > 0.05


def test_room_is_asked_for_before_anything_is_read(
    base: Path, models: dict[str, LoadedModel], catalogue: Catalogue
) -> None:
    """What multiplies out to full size is small on disk; it is counted as what it becomes."""
    model = models["sd1"]
    plain = lora_files.kohya(model)
    put(base, "small.safetensors", plain)
    put(base, "grows.safetensors", lora_files.with_magnitudes(plain))
    asked: list[int] = []
    shelf = LoraShelf(catalogue, asked.append)
    sets = [shelf.prepare(model, [Lora(name=name)]) for name in ("small", "grows", "small")]
    small, grown, _ = sizes = [loras_[0].adapter.byte_size for loras_ in sets]
    assert grown > 3 * small
    assert len(asked) == 2  # what is known needs no more room
    assert all(size < needed < 2 * size for size, needed in zip(sizes, asked, strict=False))


def test_for_what_there_is_no_room_nothing_is_read(
    base: Path, models: dict[str, LoadedModel], catalogue: Catalogue
) -> None:
    path = put(base, "heavy.safetensors", lora_files.kohya(models["sd1"]))

    def full(needed: int) -> None:
        path.unlink()
        raise OutOfMemory(f"There is no room for {needed}.")

    shelf = LoraShelf(catalogue, full)
    with pytest.raises(OutOfMemory):
        shelf.prepare(models["sd1"], [Lora(name="heavy")])
    assert shelf.byte_size == 0


def test_adapters_go_with_their_model(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models.pop("sd1")
    put(base, "gone.safetensors", lora_files.peft(model))
    shelf.activate(model, shelf.prepare(model, [Lora(name="gone")]))
    ours(model)
    assert shelf.byte_size > 0
    # with another VAE it is the same model to a LoRA
    shelf.activate(replace(model), ())
    watched = weakref.ref(next(iter(model.unet.conv_in.parameters())))
    del model
    gc.collect()
    assert shelf.byte_size == 0
    assert watched() is None


def test_a_file_that_is_replaced_is_read_again(
    base: Path, models: dict[str, LoadedModel], shelf: LoraShelf
) -> None:
    model = models["sd1"]
    put(base, "changing.safetensors", lora_files.peft(model, seed=1))
    before = with_loras(shelf, model, Lora(name="changing"))
    put(base, "changing.safetensors", lora_files.kohya(model, seed=2))
    assert worst(before, with_loras(shelf, model, Lora(name="changing"))) > 0.05
