"""How the server is to run, as one frozen `Settings`.

Each of its fields is one row of the one table of settings: its name gives the flag
(`--max-steps`), the environment variable (`RUNAI_MAX_STEPS`) and the key in the TOML file
(`max_steps`); its metadata say which values are allowed and what it is for. `load` takes each
value from the first place that has it: flags, environment, file, default. A value is read the
same way wherever it comes from, and a wrong one is an `InvalidSetting` that names the place.

Standard library only, and little of it: this is imported before the server listens. Knows
nothing of what the settings are used for.

`kinds` are the types of values, `table` is the table, `loading` reads the places.
"""

from runai.settings.kinds import SWITCH, as_text, is_loopback
from runai.settings.loading import load, read_token
from runai.settings.table import ROWS, Row, Settings

__all__ = ["ROWS", "SWITCH", "Row", "Settings", "as_text", "is_loopback", "load", "read_token"]
