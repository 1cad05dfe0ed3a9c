"""From evaluated runs to figures and one self-contained page."""
