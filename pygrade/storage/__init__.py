"""Files of a command: a directory, local or at a URL of an object store, and how it is published whole."""

from pygrade.storage.folder import Folder, Manifest, Place, is_url, visible_files
from pygrade.storage.object_store import StorageError
from pygrade.storage.places import (
    download,
    download_directory,
    join_path,
    place_exists,
    place_of,
    prepare_directory,
    publishing,
    upload_directory,
    working_directory,
)

__all__ = [
    "Folder",
    "Manifest",
    "Place",
    "StorageError",
    "download",
    "download_directory",
    "is_url",
    "join_path",
    "place_exists",
    "place_of",
    "prepare_directory",
    "publishing",
    "upload_directory",
    "visible_files",
    "working_directory",
]
