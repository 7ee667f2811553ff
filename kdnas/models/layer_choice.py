"""Which of a teacher's layers a student's layers are cut from, and which they learn from. Layers count from 0."""

from __future__ import annotations


def spread(layers: int, teacher_layers: int) -> list[int]:
    """Evenly spaced, the first and the last among them: ⌊i·(L_T−1)/(L_S−1) + ½⌋ for each student layer i."""
    if layers == 1:
        return [0]
    return [(2 * i * (teacher_layers - 1) + layers - 1) // (2 * (layers - 1)) for i in range(layers)]


def uniform(layers: int, teacher_layers: int) -> list[int]:
    """Every k-th: ⌊i·L_T/L_S⌋ for each student layer i."""
    return [i * teacher_layers // layers for i in range(layers)]


def last(layers: int, teacher_layers: int) -> list[int]:
    """L_T − L_S + i for each student layer i."""
    return [teacher_layers - layers + i for i in range(layers)]
