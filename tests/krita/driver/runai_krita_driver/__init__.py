"""Only for tests: plays the scenes when Krita is up, then quits it. See `playing`."""

import faulthandler
import sys

from krita import Krita

from .playing import Play
from .scenes import SCENES

faulthandler.enable(sys.stderr)  # Krita's crash is to say where
play = Play(SCENES)
notifier = Krita.instance().notifier()
notifier.setActive(True)
notifier.windowCreated.connect(play.begin)
