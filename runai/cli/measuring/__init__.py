"""What `runai bench` is made of: the programs it runs, the figures it draws, the page it writes.

The programs lie in benchmarks/ and know nothing of this: they print lines to read, and after each
its JSON. What there is to draw is JSON as well (`benchmarks/plots.py`).
"""
