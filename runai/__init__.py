"""RunAI: one local server that draws pictures with the models you already have.

The version is kept here and nowhere else; importing this package costs nothing.
"""

__version__ = "0.1.0"
PROTOCOL_VERSION = 1
