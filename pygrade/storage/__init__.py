"""Files of a command: a directory, local or at a URL of an object store, and how it is published whole."""

from pygrade.storage.folder import (
    Entry,
    Folder,
    Manifest,
    Place,
    download,
    download_directory,
    is_url,
    join_path,
    place_exists,
    place_of,
    prepare_directory,
    publishing,
    upload_directory,
    working_directory,
)
from pygrade.storage.object_store import StorageError

__all__ = [
    "Entry",
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
    "working_directory",
]
