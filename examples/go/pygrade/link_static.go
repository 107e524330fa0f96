//go:build pygrade_static

package pygrade

// #cgo pkg-config: pygrade-static
import "C"
