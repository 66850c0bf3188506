"""Remove a model from the models directory, and nothing else from anywhere."""

import shutil
from pathlib import Path

from node.engine.errors import ModelNotFound
from node.engine.store import MODEL_NAME
from node.errors import ConfigInvalid
from node.models.partial import PartialModel

__all__ = ["find_removable", "remove_model"]


def find_removable(name: str, models_directory: Path) -> Path:
    """The directory of a model that may be removed: `org/name`, and really inside.

    Raises ConfigInvalid for a path, or for a link that leads out; ModelNotFound.
    """
    if not MODEL_NAME.fullmatch(name):
        raise ConfigInvalid(
            f"'{name[:128]}' is not the name of a model in '{models_directory}'.",
            hint="Only org/name is removed; directories of your own you remove yourself.",
        )
    directory = models_directory / name
    if not directory.is_dir():
        raise ModelNotFound(f"There is no model '{name}' in '{models_directory}'.")
    if directory.resolve() != models_directory.resolve() / name:
        raise ConfigInvalid(
            f"'{directory}' is a link to '{directory.resolve()}', which is not ours to remove.",
            hint="Remove the link itself by hand.",
        )
    return directory


def remove_model(directory: Path) -> None:
    """Remove a directory that `find_removable` has found. Raises ModelBusy while it is pulled."""
    PartialModel.open(directory).close()
    shutil.rmtree(directory)
    if not any(directory.parent.iterdir()):
        directory.parent.rmdir()
