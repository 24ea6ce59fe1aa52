"""What lies under the base paths, and the names by which requests mean it.

`layout` knows the folders and walks them, `stamps` tell whether something changed, `detection`
what a file is; `snapshot` keeps what was found, `names` and `defaults` say what is meant,
`catalogue` answers. Nothing outside the base paths can be named. No torch, and
nothing is written.
"""

from runai.engine.catalogue.catalogue import Catalogue
from runai.engine.catalogue.entry import Entry
from runai.engine.catalogue.layout import FOLDERS

__all__ = ["FOLDERS", "Catalogue", "Entry"]
