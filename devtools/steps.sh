# Sourced by .ci/run and devtools/release-check, in the repository root.
set -euo pipefail
export PIP_QUIET=1
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE  # the tests run with NumPy's own choice of kernel
BIN=.venv/bin

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# have PROGRAM PACKAGE…: whether the program exists, after an attempt to install it.
have() {
  command -v "$1" >/dev/null || install_packages "${@:2}"
}

# have_header HEADER PACKAGE…: the same of a header of C.
have_header() {
  echo "#include <$1>" | c++ -E -x c++ - >/dev/null 2>&1 || install_packages "${@:2}"
}

install_packages() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  { apt-get update && apt-get install --yes --no-install-recommends "$@"; } >/dev/null 2>&1
}

if [ -d ../shared/data ]; then
  PYGRADE_DATA=$(cd ../shared/data && pwd)
  export PYGRADE_DATA
fi

step "programs that save time or enable tests"
have pkg-config pkg-config || echo "no pkg-config: the tests that need it are skipped"
have_header openssl/ssl.h libssl-dev || echo "no libssl-dev: the service and Redis stores are built without TLS"
have redis-server redis-server || echo "no redis-server: the tests that need it are skipped"
have node nodejs || echo "no node: the tests of the console's modules are skipped"
have chromium chromium fonts-dejavu-core fonts-liberation || echo "no chromium: the tests of pages in a browser are skipped"
if have ccache ccache; then  # the package, the C++ library, the bench and the wheel compile the same files
  export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_DIR=$PWD/build/ccache
fi
