"""Numbers as people read them."""


def bytes_text(count: int) -> str:
    """9.1 GB (10⁹ bytes), 120 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
