"""What does each kind of figure look like? One file per kind, each with `picture(figure) -> str`; `canvas` is what they share."""
