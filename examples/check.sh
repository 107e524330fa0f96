#!/usr/bin/env bash
# check.sh PREFIX DIR: builds and runs the example of every language whose tools are there, against the pygrade installed
# in PREFIX, and compares the 1,000 pages of each with those of Python; Go, Rust and Java as a package that a program uses. PYTHON is a Python with the package, CMAKE a
# cmake. Ends with the number of languages; the first that fails ends it.
set -euo pipefail
prefix=$(cd "$1" && pwd)
mkdir -p "$2"
dir=$(cd "$2" && pwd)
cd "$(dirname "$0")"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
passed=0 skipped=0

# compare LANGUAGE PROGRAM…: the program writes the pages of Python, and names a policy that is not there.
compare() {
  local language=$1 start=$SECONDS
  shift
  rm -f "$dir/$language.bin"
  "$@" "$dir/policy" "$dir/requests.bin" "$dir/$language.bin"
  cmp "$dir/$language.bin" "$dir/pages.bin"
  if "$@" "$dir/no-such-policy" "$dir/requests.bin" "$dir/$language.bin" >"$dir/error.txt" 2>&1 ||
      ! grep -q no-such-policy "$dir/error.txt"; then
    echo "$language: a missing policy has no error that names it" >&2
    exit 1
  fi
  echo "$language: the pages of Python, byte for byte ($((SECONDS - start)) s)"
  passed=$((passed + 1))
}

skip() {
  echo "$1: skipped, $2"
  skipped=$((skipped + 1))
}

serve() { "$dir/native/serve" "$1" "$2" --pages "$3" --seconds 0; }

# The newest JDK, at least 22: the first whose foreign functions are final.
find_java() {
  local javac best=21 found="" version
  for javac in $(command -v javac || true) /usr/lib/jvm/*/bin/javac; do
    version=$("$javac" -version 2>/dev/null | sed -E 's/^javac ([0-9]+).*/\1/') || continue
    [ "${version:-0}" -le "$best" ] || { best=$version found=$(dirname "$javac"); }
  done
  echo "$found"
}

${PYTHON:-python3} make_requests.py "$dir"

${CMAKE:-cmake} -S . -B "$dir/native" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
${CMAKE:-cmake} --build "$dir/native" >/dev/null
compare C "$dir/native/rank"
compare C++ serve
compare ctypes python3 python/rank.py "$prefix/lib/libpygrade.so.1"

if ! command -v pkg-config >/dev/null; then
  skip "Go and Rust" "no pkg-config"
else
  if command -v go >/dev/null; then
    (cd go && GOTOOLCHAIN=local GOFLAGS=-mod=mod go vet ./... && GOTOOLCHAIN=local go build -o "$dir/rank_go" .)
    compare Go "$dir/rank_go"
    (cd go && GOTOOLCHAIN=local go build -tags pygrade_static -o "$dir/rank_go_static" .)
    compare "Go, static" env -u LD_LIBRARY_PATH "$dir/rank_go_static"
  else
    skip Go "no go"
  fi
  if command -v cargo >/dev/null; then
    cargo build --quiet --offline --release --manifest-path rust/Cargo.toml --target-dir "$dir/rust"
    compare Rust "$dir/rust/release/rank"
    "$dir/rust/release/x_scorer" "$dir/x/policy" "$dir/x/posts.bin" "$dir/x/rust.bin"
    cmp "$dir/x/rust.bin" "$dir/x/pages.bin"
    # A crate that depends on the example's crate, and links the archive through it.
    mkdir -p "$dir/dependent/src"
    cp rust/src/bin/rank.rs "$dir/dependent/src/main.rs"
    printf '[package]\nname = "dependent"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\npygrade = { path = "%s" }\n' \
      "$PWD/rust" >"$dir/dependent/Cargo.toml"
    PYGRADE_STATIC=1 cargo build --quiet --offline --release --manifest-path "$dir/dependent/Cargo.toml" \
      --target-dir "$dir/dependent/target"
    compare "Rust, static" env -u LD_LIBRARY_PATH "$dir/dependent/target/release/dependent"
  else
    skip Rust "no cargo"
  fi
fi

java=$(find_java)
if [ -n "$java" ]; then
  "$java/javac" -d "$dir/classes" java/Pygrade.java
  "$java/jar" --create --file "$dir/pygrade.jar" -C "$dir/classes" .
  "$java/javac" -cp "$dir/pygrade.jar" -d "$dir/java" java/Rank.java
  compare Java "$java/java" --enable-native-access=ALL-UNNAMED -cp "$dir/java:$dir/pygrade.jar" Rank "$prefix/lib/libpygrade.so.1"
else
  skip Java "no JDK of version 22 or later"
fi
echo "examples: $passed languages, $skipped skipped"
