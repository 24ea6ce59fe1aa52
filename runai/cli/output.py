"""Where the pictures go: file names, the files, and a sidecar beside each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from runai import __version__
from runai.errors import InvalidSetting, SetupError, WireError
from runai.schema.events import Completed, Picture


def paths_for(output: Path, count: int) -> list[Path]:
    """One path a picture: out.png, or out-0.png, out-1.png, …; absolute.

    Raises InvalidSetting where nothing can be saved: better before the drawing than after.
    """
    if output.suffix.lower() != ".png":
        raise InvalidSetting(f"-o: {output} does not end in .png.", hint="Pictures are PNG files.")
    if not output.absolute().parent.is_dir():
        raise InvalidSetting(f"-o: there is no folder {output.parent}.", hint="Make it first.")
    if count == 1:
        return [output.absolute()]
    return [output.absolute().with_stem(f"{output.stem}-{i}") for i in range(count)]


def save(completed: Completed, paths: list[Path], *, sidecar: bool) -> None:
    """Write each picture, with `sidecar` a YAML file of its parameters too; print the paths.

    Raises WireError for an answer of more or fewer pictures than there are paths.
    """
    if len(completed.images) != len(paths):
        raise WireError(f"The server sent {len(completed.images)} pictures, not {len(paths)}.")
    for picture, path in zip(completed.images, paths, strict=True):
        try:
            path.write_bytes(picture.png)
            if sidecar:
                path.with_suffix(".yaml").write_text(_described(completed, picture), "utf-8")
        except OSError as error:
            raise SetupError(
                f"{path} cannot be written: {error.strerror}.", hint="Choose another -o."
            ) from None
        print(f"{path} (seed {picture.seed})")


def _described(completed: Completed, picture: Picture) -> str:
    content: dict[str, Any] = {
        **completed.parameters.model_dump(exclude_none=True),
        "seed": picture.seed,
        "num_images": 1,
        "nsfw": picture.nsfw,
        "notes": completed.notes,
        "runai_version": __version__,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
