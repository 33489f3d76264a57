"""Constructor options that data modules take over from their base classes, for type checkers."""

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

if TYPE_CHECKING:
    from typing import Unpack as Inherited
else:

    class Inherited:
        """Types the `**options` that a constructor passes on to its base class, as `typing.Unpack` does.

        At run time it is no `Unpack`: where jsonargparse finds one it takes the options from there, without a default
        or a word of help; else it follows `**options` to the constructor that has both.
        """

        def __class_getitem__(cls, options: type) -> Any:
            return Annotated[Any, options]


class RunOptions(TypedDict, total=False):
    """Options of `ExactDataModule` without the batch size."""

    passes: float | None
    num_workers: int
    seed: int


class BatchOptions(RunOptions, total=False):
    """Options of `ExactDataModule`."""

    batch_size: int
