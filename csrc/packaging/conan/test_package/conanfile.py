"""Builds the project of csrc/tests/consumer, the same that tests the installed library, against the package."""

from pathlib import Path

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout


class Consumer(ConanFile):
    settings = "os", "arch", "compiler", "build_type"

    def requirements(self) -> None:
        self.requires(self.tested_reference_str)

    def layout(self) -> None:
        cmake_layout(self)

    def generate(self) -> None:
        toolchain = CMakeToolchain(self)
        toolchain.user_presets_path = False
        shared = self.dependencies["pygrade"].options.shared
        toolchain.cache_variables["PYGRADE_KIND"] = "shared" if shared else "static"
        toolchain.cache_variables["PYGRADE_LANGUAGES"] = "C;CXX"
        toolchain.generate()

    def build(self) -> None:
        cmake = CMake(self)
        cmake.configure(build_script_folder=str(Path(self.recipe_folder).parents[2] / "tests/consumer"))
        cmake.build()

    def test(self) -> None:
        if can_run(self):
            CMake(self).ctest(["--output-on-failure", "--no-tests=error"])
