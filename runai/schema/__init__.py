"""What may be said over any wire: requests, events, their validation and JSON form. PURE.

Rules: a message is validated once, here; behind this room types are trusted. The native
protocol's words are diffusers' words; every foreign vocabulary is one file in `dialects/`
that translates into these types and out of them again. No I/O, no threads, no torch.
"""
