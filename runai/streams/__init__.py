"""A connected socket as a stream of bytes, plain or encrypted: what both ends have in common. I/O.

`plain` is a socket that can be waited for with a limit; `tls` puts TLS between it and whoever
reads and writes, `contexts` says with which certificates. Rules: one thread may read while
another writes; no threads of its own; `tls` and `contexts` are imported only where TLS is used,
for the `ssl` module would delay listening. Knows no packets.
"""
