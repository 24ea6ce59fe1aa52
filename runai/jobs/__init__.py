"""Who is served when: jobs, the fair queue, the one worker thread. THREADS, no sockets, no torch.

`service` is the only module that other rooms need, and `engine` says what is asked of whoever
draws. Rules: one lock (the ledger's) guards all of it; no I/O, no callback and no engine under it.
"""
