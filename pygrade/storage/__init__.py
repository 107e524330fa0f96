"""Files of a command: a directory, local or at a URL of an object store, and how it is published whole."""

from pygrade.storage.files import StorageError, is_url
from pygrade.storage.folder import Folder, Manifest, Place, visible_files
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
