"""Lightning's messages that don't help the user of this command line."""

import logging
import warnings

UNHELPFUL_WARNINGS = (
    r".*does not have many workers.*",
    r".*You're resuming from a checkpoint that ended before the epoch ended.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*Starting from v1\.9\.0, `tensorboardX` has been removed.*",
    r".*The ``compute`` method of metric .* was called before the ``update`` method.*",
    r".*module\(s\) in eval mode at the start of training.*",  # frozen stages are
    r"\s*Unable to serialize instance cpu",  # the parser's, of a callback's default
    r".*You have overridden `transfer_batch_to_device`.*",
)


def quiet_lightning() -> None:
    """Keep Lightning's tips and notes off the terminal; warnings and errors stay.

    The notes are about loaders of which resume is ours, or repeat what a run says itself.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # what callbacks say was asked for: a summary, or verbose=True
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)
    for pattern in UNHELPFUL_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
