"""Only for tests: plays the scenes when Krita is up, then quits it. See `playing`.

`RUNAI_DRIVER_ONLY`: names of scenes, to play no others but the first one.
"""

import faulthandler
import os
import sys

from krita import Krita

from .playing import Play
from .scenes import SCENES

faulthandler.enable(sys.stderr)  # Krita's crash is to say where
wanted = os.environ.get("RUNAI_DRIVER_ONLY", "").split()
play = Play([s for s in SCENES if not wanted or s is SCENES[0] or s.__name__ in wanted])
notifier = Krita.instance().notifier()
notifier.setActive(True)
notifier.windowCreated.connect(play.begin)
