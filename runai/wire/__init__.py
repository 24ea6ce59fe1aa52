"""Bytes on a raw socket: packets, bodies, and one connection's state. PURE.

Rules: no sockets, no threads, no JSON. A body is any bytes without NUL; what it means is
`schema`'s business, when bytes are read and written is the transport's.
"""
