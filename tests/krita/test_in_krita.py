"""The plugin in a real Krita: bin/test-krita.sh installs that and runs these.

One session plays all scenes (`driver/`); each test looks at what came of one of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from runai.testing.scripted import ScriptedEngine
from tests.krita import studio
from tests.krita.conftest import Running, noise

pytestmark = pytest.mark.skipif(
    "RUNAI_IN_KRITA" not in os.environ, reason="needs Krita and Xvfb: bin/test-krita.sh"
)
PROMPT = "a red circle on a blue background"
NAMED = f"{PROMPT} (5)"
MANY = 50


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> studio.Played:
    folder = tmp_path_factory.mktemp("krita")
    out = Path(os.environ["RUNAI_IN_KRITA"])
    picture = noise(512)
    naive = Running(ScriptedEngine(draw=lambda *_: picture))
    try:
        return studio.play(folder, out, naive.port)
    finally:
        naive.end()


@pytest.fixture(scope="module")
def draw(
    played: studio.Played, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[studio.Drawing]:
    """What was drawn in Krita, drawn once more, when Krita is no longer in the way."""
    with studio.drawing(tmp_path_factory.mktemp("expected")) as drawing:
        yield drawing


def picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGBA")


def is_same(one: Image.Image, other: Image.Image) -> bool:
    assert one.size == other.size
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None


def alpha_box(layer: Image.Image) -> tuple[int, int, int, int] | None:
    return layer.getchannel("A").getbbox()


def test_the_plugin_starts_the_server_and_knows_its_models(played: studio.Played) -> None:
    facts = played.facts("starting")
    assert "Ready." in facts["seen"] and len(facts["seen"]) > 1
    assert facts["models"] == ["The server's default", "v1/shapes", "v2/shapes-v"]


def test_words_alone_give_a_layer_where_something_was_selected(
    played: studio.Played, draw: studio.Drawing
) -> None:
    facts = played.facts("words_alone")
    assert facts["plan"] == "Draws 128 × 128 in the selection from the words alone."
    assert facts["layers"] == ["Background", NAMED]
    assert facts["active"] == NAMED
    layer = picture(played.out / facts["picture"])
    assert alpha_box(layer) == (64, 40, 192, 168)
    expected = draw("words", PROMPT, "--seed", "5", "--steps", "12", "--size", "128x128")
    assert is_same(layer.crop((64, 40, 192, 168)), picture(expected))


def test_progress_and_previews_are_seen(played: studio.Played) -> None:
    facts = played.facts("words_alone")
    seen = [step for step, total in facts["steps"] if total == 12]
    assert len(seen) >= 2, facts["steps"]
    assert True in facts["previews"]


def test_a_picture_is_changed(played: studio.Played, draw: studio.Drawing) -> None:
    facts = played.facts("picture_changed")
    assert facts["plan"] == "Changes 128 × 128 in the selection by 50 %."
    layer = picture(played.out / facts["picture"])
    box = (32, 16, 160, 144)
    assert alpha_box(layer) == box
    before = played.out / "picture_part.png"
    picture(played.out / "picture_before.png").crop(box).convert("RGB").save(before)
    options = ("--seed", "6", "--steps", "4", "--image", str(before), "--strength", "0.5")
    assert is_same(layer.crop(box), picture(draw("changed", PROMPT, *options)))


def test_what_was_not_selected_stays_when_a_part_is_repainted(played: studio.Played) -> None:
    facts = played.facts("selection_repainted")
    assert facts["plan"] == "Repaints the selection, and sees 144 × 128 around it."
    layer = picture(played.out / facts["picture"])
    assert alpha_box(layer) == (60, 50, 140, 110)
    assert layer.getpixel((61, 51))[3] == 0, "the corner of the ellipse's box"
    assert layer.getpixel((100, 80))[3] == 255
    before, after = (picture(played.out / f"repainted_{when}.png") for when in ("before", "after"))
    changed = ImageChops.difference(before.convert("RGB"), after.convert("RGB"))
    painted = layer.getchannel("A").point(lambda value: 255 if value else 0)
    outside = Image.composite(Image.new("RGB", before.size), changed, painted)
    assert outside.getbbox() is None
    assert changed.getbbox() is not None


def test_what_is_repainted_is_what_the_server_draws(
    played: studio.Played, draw: studio.Drawing
) -> None:
    layer = picture(played.out / played.facts("selection_repainted")["picture"])
    box = (28, 16, 172, 144)
    image, mask = played.out / "inpaint_image.png", played.out / "inpaint_mask.png"
    picture(played.out / "repainted_before.png").crop(box).convert("RGB").save(image)
    layer.getchannel("A").crop(box).save(mask)
    options = ("--seed", "7", "--steps", "4", "--image", str(image), "--mask", str(mask))
    expected = picture(draw("repainted", PROMPT, *options, "--strength", "1"))
    expected.putalpha(layer.getchannel("A").crop(box))
    nothing = Image.new("RGBA", expected.size)
    assert is_same(
        Image.alpha_composite(nothing, layer.crop(box)), Image.alpha_composite(nothing, expected)
    )


def test_where_there_is_no_picture_it_is_drawn_from_the_words(
    played: studio.Played, draw: studio.Drawing
) -> None:
    layer = picture(played.out / played.facts("nothing_there")["picture"])
    expected = draw("nothing", PROMPT, "--seed", "5", "--steps", "4", "--size", "128x128")
    assert is_same(layer, picture(expected))


def test_a_document_of_odd_sides_is_covered_whole(played: studio.Played) -> None:
    facts = played.facts("odd_document")
    assert facts["box"] == [0, 0, 104, 72]
    assert alpha_box(picture(played.out / facts["picture"])) == (0, 0, 100, 70)


def test_a_document_of_16_bits_shows_the_same(played: studio.Played) -> None:
    assert played.facts("deep_document")["depths"][0] == "U16"
    one, other = (picture(played.out / f"{name}.png") for name in ("deep", "nothing_there"))
    extremes = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    assert max(most for _, most in extremes) <= 1


def test_cancel_ends_a_request_without_a_word_or_a_layer(played: studio.Played) -> None:
    assert played.facts("canceled") == {"layers": ["Background"], "trouble": ""}


def test_errors_are_shown_with_what_to_do(played: studio.Played) -> None:
    said = played.facts("errors_are_shown")
    assert said["lora"].startswith("The LoRA 'nowhere' is not in ")
    assert said["lora"].endswith("\nUse one of: lora/outline.")
    assert said["nothing selected"] == "Nothing is selected.\nSelect what is to be repainted."
    assert said["too large"].startswith("3000 × 3000 is more than this server draws at once.\n")
    assert said["after one that went well"] == ""
    assert said["layers"] == ["Background"]


def test_settings_are_kept_and_used(played: studio.Played) -> None:
    facts = played.facts("settings_changed")
    assert facts["says"].startswith("There is no server at localhost:")
    assert facts["models"] == ["The server's default"]
    assert facts["layers"] == ["Background"]
    assert facts["kept"] == [True, True]


def test_the_server_may_die_and_the_next_request_is_drawn(
    played: studio.Played, draw: studio.Drawing
) -> None:
    facts = played.facts("server_dies")
    assert facts["trouble"] == "The server went away while it was at this.\nPress Generate again."
    assert facts["pids"][0] != facts["pids"][1]
    assert facts["layers"] == ["Background", NAMED]
    layer = picture(played.out / facts["picture"])
    expected = draw("again", PROMPT, "--seed", "5", "--steps", "12", "--size", "128x128")
    assert is_same(layer, picture(expected))


def test_many_requests_in_a_row_all_become_layers_in_their_order(played: studio.Played) -> None:
    facts = played.facts("many")
    assert facts["trouble"] == ""
    assert facts["layers"] == ["Background", *(f"a star ({seed})" for seed in range(MANY))]


def test_a_reader_like_the_original_plugin_misses_nothing(played: studio.Played) -> None:
    facts = played.facts("original_plugin")
    assert (facts["layers"], facts["broken"]) == (100, [])
    assert facts["least_bytes"] > 500_000


@pytest.mark.skipif(
    not os.environ.get(studio.SHOTS), reason="no screenshots: bin/test-krita.sh --shots"
)
def test_the_screenshots_could_be_made(played: studio.Played) -> None:
    for scene in ("words_for_pictures", "a_part_repainted"):
        played.facts(scene)
    assert played.facts("something_wrong")["trouble"].startswith("Nothing is selected.")


def test_krita_ends_well_and_the_server_with_it(played: studio.Played) -> None:
    assert played.code == 0, played.said
    assert studio.ends_by_itself(played.facts("server_dies")["pids"][1])
