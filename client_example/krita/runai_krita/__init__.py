"""A Krita 5 plugin that draws with a RunAI server: Python's standard library and Krita alone.

Three kinds of modules, and an import goes from the later kinds to the earlier ones only:

- pure: `wire` (packets), `conversation` (who is owed an answer), `geometry` (where), `asking`
  (what is asked for), `board` (what is known of the server and of what is being drawn);
- with I/O, without Qt: `connection` (one socket, one thread), `starting` (the server's program);
- with Krita and Qt, in its GUI thread only: `settings`, `canvas` (pixels and layers), `desk`
  (one for all windows, brings the others together), `dock` and what it is made of.

All of it runs on Python 3.8, which Krita's packages bring along.
"""

try:
    from krita import Krita
except ImportError:  # not inside Krita: only what needs neither it nor Qt can be used
    pass
else:
    from .dock import add_to

    add_to(Krita.instance())
