"""Fetching models: the only code of RunAI that opens connections of its own.

`choice` decides which files of a repository are needed, `hub` talks to it and brings files
with resume and verification, `wellknown` names what most people start with, `vocabulary`
knows two sources of the CLIP vocabulary. Only `runai models get` imports any of it.
"""
