"""conan create csrc/packaging/conan: the C++ library as a Conan 2 package, built from this checkout.

The package has both libraries. Programs link the static one, with the C++ API and the C ABI; with ``shared`` the shared
one, the C ABI alone. ``lmdb`` and ``redis`` add those stores, from Conan's own packages of the libraries.
"""

import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load

SOURCES = ("CMakeLists.txt", "LICENSE", "csrc/cmake/*", "csrc/include/*", "csrc/src/*")


class Pygrade(ConanFile):
    name = "pygrade"
    license = "Apache-2.0"
    description = "Ranks by learned multi-task fusion weights"
    topics = ("ranking", "recommender-systems", "multi-task")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "lmdb": [True, False], "redis": [True, False]}  # noqa: RUF012
    default_options = {"shared": False, "lmdb": False, "redis": False}  # noqa: RUF012

    @property
    def _checkout(self) -> str:
        return str(Path(self.recipe_folder).parents[2])

    def set_version(self) -> None:
        header = load(self, Path(self._checkout) / "csrc/include/pygrade/version.hpp")
        self.version = re.search(r'PYGRADE_VERSION "([^"]+)"', header)[1]

    def export_sources(self) -> None:
        for pattern in SOURCES:
            copy(self, pattern, self._checkout, self.export_sources_folder)

    def layout(self) -> None:
        cmake_layout(self)

    def validate(self) -> None:
        check_min_cppstd(self, 20)

    def requirements(self) -> None:
        if self.options.lmdb:
            self.requires("lmdb/[>=0.9.29 <1]")
        if self.options.redis:
            self.requires("hiredis/[>=1.0 <2]")

    def generate(self) -> None:
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        toolchain.cache_variables["PYGRADE_LMDB"] = "ON" if self.options.lmdb else "OFF"
        toolchain.cache_variables["PYGRADE_REDIS"] = "ON" if self.options.redis else "OFF"
        toolchain.generate()

    def build(self) -> None:
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self) -> None:
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")

    def package_info(self) -> None:
        # The library's own CMake package is found: pygrade::static, pygrade::shared, pygrade::pygrade.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = ["lib/cmake/pygrade"]
        self.cpp_info.set_property("pkg_config_name", "pygrade" if self.options.shared else "pygrade-static")
        self.cpp_info.libs = ["pygrade"] if self.options.shared else [":libpygrade.a"]
        if not self.options.shared:
            self.cpp_info.system_libs = ["stdc++", "m", "pthread"]
