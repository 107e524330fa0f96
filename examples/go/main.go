// rank POLICY_DIR: ranks 40 made-up candidates by the C ABI, which pkg-config finds, and prints the page: a candidate and
// the bits of its score a line.
package main

/*
#cgo pkg-config: pygrade
#include <stdlib.h>
#include <pygrade/pygrade.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"
)

const candidates, k = 40, 10

// run gives its own buffer for the text of an error: a goroutine may move to another thread between two calls. Go's
// memory may hold pointers to Go's memory only while that is pinned.
func run(directory string) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	var failure [256]C.char
	pinner.Pin(&failure)
	path := C.CString(directory)
	defer C.free(unsafe.Pointer(path))
	options := C.pygrade_ranker_options{error: &failure[0], error_size: C.size_t(len(failure))}
	options.size = C.size_t(unsafe.Sizeof(options))
	var ranker *C.pygrade_ranker
	if C.pygrade_ranker_load(path, &options, &ranker) != C.PYGRADE_OK {
		return errors.New(C.GoString(&failure[0]))
	}
	defer C.pygrade_ranker_free(ranker)

	features, tasks := int(C.pygrade_ranker_num_features(ranker)), int(C.pygrade_ranker_num_tasks(ranker))
	floats := func(count int, value func(int) float32) ([]float32, *C.float) {
		made := make([]float32, count)
		for i := range made {
			made[i] = value(i)
		}
		pinner.Pin(unsafe.SliceData(made))
		return made, (*C.float)(unsafe.SliceData(made))
	}
	request := C.pygrade_request{features: C.size_t(features), candidates: candidates, tasks: C.size_t(tasks)}
	request.size = C.size_t(unsafe.Sizeof(request))
	request.error, request.error_size = &failure[0], C.size_t(len(failure))
	_, request.context = floats(features, func(int) float32 { return 0.5 })
	_, request.item_values = floats(candidates, func(i int) float32 { return float32(1 + i%8) })
	_, request.predictions = floats(candidates*tasks, func(i int) float32 { return float32(1+i*7%50) / 64 })
	page, indices := C.pygrade_page{k: k}, make([]int32, k)
	page.size = C.size_t(unsafe.Sizeof(page))
	var scores []float32
	scores, page.values = floats(k, func(int) float32 { return 0 })
	pinner.Pin(unsafe.SliceData(indices))
	page.indices = (*C.int32_t)(unsafe.SliceData(indices))
	if C.pygrade_ranker_rank(ranker, &request, &page) != C.PYGRADE_OK {
		return errors.New(C.GoString(&failure[0]))
	}
	for i, index := range indices {
		fmt.Printf("%d %08x\n", index, math.Float32bits(scores[i]))
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rank POLICY_DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
