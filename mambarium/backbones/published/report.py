"""What loading published weights did."""

from dataclasses import dataclass, field

SHOWN = 4
"""Names that a line of the report shows before it counts the rest."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors were loaded, and which not; printed, it fits on a screen.

    Names are those of the module that was loaded into, but of `unexpected`, which are the file's.

    Attributes:
        source: The file, folder or name.
        sha256: Of the file.
        format: Title of its format.
        weights: Which of the file's weights: its entry, and whether they are an average over training.
        matched: Tensors with the file's values.
        missing: Tensors of the backbone that the file lacks, left as they were.
        unexpected: Tensors of the file that have no place.
        reshaped: Tensors with the file's values at another shape, and the two shapes.
        fresh: Tensors of the head that were left as they were, and why.
        settings: Which configurations came with the weights, and how many of their fields say what the backbone has.
        unread: Fields of them of which nothing is known here.
        notes: What else a user should know.
    """

    source: str
    sha256: str
    format: str
    weights: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    settings: str = "none came with the weights"
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"loaded       {self.source}",
            f"             {self.format}, {self.weights}",
            f"sha256       {self.sha256}",
            f"settings     {self.settings}",
            f"matched      {len(self.matched)} tensors",
        ]
        for title in ("missing", "unexpected", "reshaped", "fresh", "unread"):
            names = getattr(self, title)
            rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{title:12} {', '.join(names[:SHOWN])}{rest}" if names else f"{title:12} none")
        return "\n".join([*lines, *(f"note         {note}" for note in self.notes)])
