"""Files of a command: places, local or at URLs of object stores, and how a directory is published whole."""

from pygrade.storage.folder import Folder, Manifest, Place, is_url, remote_folder
from pygrade.storage.object_store import StorageError
from pygrade.storage.places import (
    download,
    download_directory,
    join_path,
    list_files,
    parent_of,
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
    "list_files",
    "parent_of",
    "place_exists",
    "place_of",
    "prepare_directory",
    "publishing",
    "remote_folder",
    "upload_directory",
    "working_directory",
]
