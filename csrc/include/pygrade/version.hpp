// The only definition of the version: CMake and the Python build read it from here.
#pragma once

#define PYGRADE_VERSION "0.2.0"
