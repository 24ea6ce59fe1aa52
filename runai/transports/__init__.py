"""Ways in and out: sockets now. A transport adds nothing to a request but I/O.

Rules: what bytes mean is `wire`'s and `schema`'s business, what a request does is `jobs`'s.
Every thread here is tracked and joined; none polls while there is nothing to send.
"""
