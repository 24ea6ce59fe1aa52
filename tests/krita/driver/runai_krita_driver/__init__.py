"""Only for tests: plays the scenes when Krita is up, then quits it. See `playing`.

`RUNAI_DRIVER_ONLY`: names of scenes, to play no others but the first one. `RUNAI_DRIVER_SHOTS`: if
set, the screenshots for the documentation are made at the end.
"""

import faulthandler
import os
import sys

from krita import Krita

from .playing import Play
from .scenes import SCENES
from .shots import SHOTS

faulthandler.enable(sys.stderr)  # Krita's crash is to say where
scenes = [*SCENES, *SHOTS] if os.environ.get("RUNAI_DRIVER_SHOTS") else SCENES
wanted = os.environ.get("RUNAI_DRIVER_ONLY", "").split()
play = Play([s for s in scenes if not wanted or s is SCENES[0] or s.__name__ in wanted])
notifier = Krita.instance().notifier()
notifier.setActive(True)
notifier.windowCreated.connect(play.begin)
