"""What a process's garbage collector need not look at again and again."""

import gc

__all__ = ["freeze_startup"]


def freeze_startup() -> None:
    """Once, when all is loaded: modules, models and routes live as long as the process.

    Looking through them at every full collection took a fifth of the time of a receipt.
    """
    gc.collect()
    gc.freeze()
