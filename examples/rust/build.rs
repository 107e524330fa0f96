//! Links the library that pkg-config finds as pygrade: the shared one, or the static one with PYGRADE_STATIC=1. All of it
//! reaches crates that depend on this one: link-arg would not.
use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rerun-if-env-changed=PYGRADE_STATIC");
    let package = if env::var_os("PYGRADE_STATIC").is_some() { "pygrade-static" } else { "pygrade" };
    let output = Command::new("pkg-config").args(["--libs", package]).output().expect("pkg-config can't be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for flag in String::from_utf8(output.stdout).expect("pkg-config writes UTF-8").split_whitespace() {
        match flag.split_at(2) {
            ("-L", folder) => println!("cargo:rustc-link-search=native={folder}"),
            ("-l", library) => println!("cargo:rustc-link-lib={library}"),
            _ if flag.ends_with("/libpygrade.a") => {
                println!("cargo:rustc-link-search=native={}", flag.trim_end_matches("/libpygrade.a"));
                println!("cargo:rustc-link-lib=static=pygrade");
            }
            _ => assert!(flag == "-pthread", "pkg-config says {flag}, which is not known here"), // Rust links threads
        }
    }
}
