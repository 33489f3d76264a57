"""Constructor options that a class takes over from its base classes, written once."""

from typing import TYPE_CHECKING, Annotated, Any

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
