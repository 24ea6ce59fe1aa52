"""Fetching models: the only code of RunAI that opens connections of its own.

`hub` talks to a repository and brings files with resume and verification, `listing` checks
what it says that there is, `choice` decides which of it are needed, `wellknown` names what
most people start with, `vocabulary` knows two sources of the CLIP vocabulary. Only `runai
models get` imports any of it.
"""
