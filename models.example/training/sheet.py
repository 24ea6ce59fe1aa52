"""The two pictures of the model card: a contact sheet and the training curves."""

from __future__ import annotations

import csv
import math
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_TEXT_HEIGHT = 58
_PALETTE = {"vae": (120, 120, 120), "epsilon": (35, 65, 215), "v": (220, 30, 35)}
Row = tuple[str, int, float]


def contact_sheet(prompts: list[str], images: dict[str, list[Image.Image]]) -> Image.Image:
    """Prompts in rows of six, under each the pictures of every model."""
    columns, side = 6, 128
    cell = _TEXT_HEIGHT + (side + 4) * len(images)
    rows = math.ceil(len(prompts) / columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, prompt in enumerate(prompts):
        left, top = index % columns * (side + 8) + 4, index // columns * cell
        pen.text((left, top + 4), textwrap.fill(prompt, 23), fill="black", font=font)
        for row, pictures in enumerate(images.values()):
            sheet.paste(pictures[index], (left, top + _TEXT_HEIGHT + row * (side + 4)))
    return sheet


def collect(work: Path, target: Path) -> list[Row]:
    """The stages' logs as one csv: stage, iteration, loss."""
    rows: list[Row] = []
    for stage in _PALETTE:
        with (work / f"{stage}.csv").open(newline="") as file:
            latest = {int(r["iteration"]): float(r["loss"]) for r in csv.DictReader(file)}
        rows += [(stage, iteration, loss) for iteration, loss in sorted(latest.items())]
    with target.open("w", newline="") as file:
        header = ("stage", "iteration", "loss")
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return rows


def curve(rows: list[Row]) -> Image.Image:
    """Loss over iterations, logarithmic, one line per stage."""
    width, height, edge = 800, 420, 50
    picture = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    last = max(row[1] for row in rows)
    low, high = (math.log10(pick(row[2] for row in rows)) for pick in (min, max))

    def at(iteration: float, loss: float) -> tuple[float, float]:
        across = edge + (width - 2 * edge) * iteration / last
        up = (math.log10(loss) - low) / (high - low)
        return across, height - edge - (height - 2 * edge) * up

    pen.rectangle((edge, edge, width - edge, height - edge), outline="black")
    for loss in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        if low <= math.log10(loss) <= high:
            x, y = at(0, loss)
            pen.line((x, y, width - edge, y), fill=(225, 225, 225))
            pen.text((8, y - 7), f"{loss:g}", fill="black", font=font)
    for number in range(0, last + 1, 500):
        x = at(number, 10**low)[0]
        pen.text((x - 10, height - edge + 6), str(number), fill="black", font=font)
    for index, (stage, colour) in enumerate(_PALETTE.items()):
        pen.line([at(row[1], row[2]) for row in rows if row[0] == stage], fill=colour, width=2)
        pen.text((edge + 90 * index, 20), stage, fill=colour, font=font)
    pen.text((width - 190, 20), "loss over iterations", fill="black", font=font)
    return picture
