"""Numbers as people read them."""


def bytes_text(count: int) -> str:
    """9.1 GB (10⁹ bytes), 120 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def seconds_text(seconds: float) -> str:
    """38 s, 1.25 s, 12.5 ms, 0.3 ms."""
    if seconds >= 10:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1}f} ms"
