// Package pygrade ranks by a policy that pygrade trained, through its C ABI. It links what pkg-config finds as pygrade, or,
// with `go build -tags pygrade_static`, as pygrade-static.
package pygrade

/*
#include <stdlib.h>
#include <pygrade/pygrade.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// Ranker serves a policy. Any number of goroutines may use one, also while one of them reloads it.
type Ranker struct{ handle *C.pygrade_ranker }

// Request has N candidates. Nil slices: not given.
type Request struct {
	Context     []float32 // [F]
	Predictions []float32 // [N, T]
	Candidates  int       // N
	Mask        []uint8   // [N]
	BoostMul    []float32 // [N]
	BoostAdd    []float32 // [N]
	Groups      []int32   // [N, A]
	Caps        []int32   // [A]
	Scenario    *string
	Explore     bool
	Draw        *uint64   // of the exploration; nil: the ranker's next one
	Values      []float32 // [T]
	ItemValues  []float32 // [N]
	ItemIDs     []int64   // [N], StableID of items with names
	Items       []float32 // [N, I] by the item columns of the policy, NaN: unknown
	CapSlots    []int32   // [A]
	Decay       []float32 // [A]
	Pins        []int32   // [k]
	Demoted     []uint8   // [N]
}

// Page is the result. Values and Indices have k places.
type Page struct {
	Values        []float32
	Indices       []int32
	Weights       []float32 // [T]
	Concentration []float32 // [T]
	Filled        int
	Fallback      bool
	Explored      bool
	Draw          uint64
	MixtureWeight float32
	MissingItems  int // item columns that the policy reads and the request lacks: their means stood in
	PolicyVersion string
}

// An errorBuffer is given to a call in place of pygrade_last_error, which belongs to a thread: a goroutine may have moved
// to another one by the time it asks.
type errorBuffer [256]C.char

func (b *errorBuffer) of(status C.pygrade_status) error {
	if status == C.PYGRADE_OK {
		return nil
	}
	return fmt.Errorf("pygrade, status %d: %s", int(status), C.GoString(&b[0]))
}

// Version of the library that runs.
func Version() string { return C.GoString(C.pygrade_version()) }

// StableID is the id that the name of an item stands for in a log; plain decimal digits are the number itself.
func StableID(name string) int64 {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	return int64(C.pygrade_stable_id(text, C.size_t(len(name))))
}

// Load makes a ranker of a policy directory.
func Load(directory string) (*Ranker, error) {
	var pinner runtime.Pinner // Go's memory may hold pointers to Go's memory only while that is pinned
	defer pinner.Unpin()
	var failure errorBuffer
	pinner.Pin(&failure)
	path := C.CString(directory)
	defer C.free(unsafe.Pointer(path))
	var options C.pygrade_ranker_options
	options.size = C.size_t(unsafe.Sizeof(options))
	options.error, options.error_size = &failure[0], C.size_t(len(failure))
	ranker := &Ranker{}
	if err := failure.of(C.pygrade_ranker_load(path, &options, &ranker.handle)); err != nil {
		return nil, err
	}
	runtime.SetFinalizer(ranker, (*Ranker).Close)
	return ranker, nil
}

// Close frees the ranker, which must not be in use.
func (r *Ranker) Close() {
	C.pygrade_ranker_free(r.handle)
	r.handle = nil
	runtime.SetFinalizer(r, nil)
}

// Tasks is the number of columns of the predictions.
func (r *Ranker) Tasks() int { return int(C.pygrade_ranker_num_tasks(r.handle)) }

// Reload replaces the policy while other goroutines rank.
func (r *Ranker) Reload(directory string) error {
	path := C.CString(directory)
	defer C.free(unsafe.Pointer(path))
	var failure errorBuffer
	source := C.pygrade_policy_source{directory: path, error: &failure[0], error_size: C.size_t(len(failure))}
	source.size = C.size_t(unsafe.Sizeof(source))
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&failure)
	var policy *C.pygrade_policy
	if err := failure.of(C.pygrade_policy_load(&source, &policy)); err != nil {
		return err
	}
	defer C.pygrade_policy_free(policy)
	return failure.of(C.pygrade_ranker_swap(r.handle, policy, &failure[0], C.size_t(len(failure))))
}

func floats(p *runtime.Pinner, values []float32) *C.float {
	if len(values) == 0 {
		return nil
	}
	p.Pin(&values[0])
	return (*C.float)(&values[0])
}

func integers(p *runtime.Pinner, values []int32) *C.int32_t {
	if len(values) == 0 {
		return nil
	}
	p.Pin(&values[0])
	return (*C.int32_t)(&values[0])
}

// Rank returns the best k candidates.
func (r *Ranker) Rank(request *Request, k int) (*Page, error) {
	tasks, n := r.Tasks(), request.Candidates
	if k < 1 || n < 0 || len(request.Predictions) != n*tasks {
		return nil, errors.New("pygrade: expected k of at least 1 and a prediction for each candidate and task")
	}
	for name, size := range map[string]int{"Mask": len(request.Mask), "BoostMul": len(request.BoostMul),
		"BoostAdd": len(request.BoostAdd), "ItemValues": len(request.ItemValues), "ItemIDs": len(request.ItemIDs),
		"Demoted": len(request.Demoted)} {
		if size != 0 && size != n {
			return nil, fmt.Errorf("pygrade: %s has %d entries; expected one for each of %d candidates", name, size, n)
		}
	}
	if size := len(request.Values); size != 0 && size != tasks {
		return nil, fmt.Errorf("pygrade: Values has %d entries; expected one for each of %d tasks", size, tasks)
	}
	if len(request.Groups) != n*len(request.Caps) {
		return nil, errors.New("pygrade: expected a group for each candidate and cap")
	}
	for name, size := range map[string]int{"CapSlots": len(request.CapSlots), "Decay": len(request.Decay)} {
		if size != 0 && size != len(request.Caps) {
			return nil, fmt.Errorf("pygrade: %s has %d entries; expected one for each of %d caps", name, size, len(request.Caps))
		}
	}
	if size := len(request.Pins); size != 0 && size != k {
		return nil, fmt.Errorf("pygrade: Pins has %d entries; expected one for each of %d places", size, k)
	}
	if size := len(request.Items); size != 0 && (n == 0 || size%n != 0) {
		return nil, fmt.Errorf("pygrade: Items has %d entries; expected as many for each of %d candidates", size, n)
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	var failure errorBuffer
	pinner.Pin(&failure)

	var q C.pygrade_request
	q.size = C.size_t(unsafe.Sizeof(q))
	q.error, q.error_size = &failure[0], C.size_t(len(failure))
	q.context, q.features = floats(&pinner, request.Context), C.size_t(len(request.Context))
	q.predictions, q.candidates, q.tasks = floats(&pinner, request.Predictions), C.size_t(n), C.size_t(tasks)
	if len(request.Mask) > 0 {
		pinner.Pin(&request.Mask[0])
		q.mask = (*C.uint8_t)(&request.Mask[0])
	}
	if len(request.Demoted) > 0 {
		pinner.Pin(&request.Demoted[0])
		q.demoted = (*C.uint8_t)(&request.Demoted[0])
	}
	if len(request.Items) > 0 {
		q.items, q.item_columns = floats(&pinner, request.Items), C.size_t(len(request.Items)/n)
	}
	q.pins, q.cap_slots = integers(&pinner, request.Pins), integers(&pinner, request.CapSlots)
	q.decay = floats(&pinner, request.Decay)
	q.boost_mul, q.boost_add = floats(&pinner, request.BoostMul), floats(&pinner, request.BoostAdd)
	if n > 0 {
		q.groups, q.caps = integers(&pinner, request.Groups), integers(&pinner, request.Caps)
		q.group_columns = C.size_t(len(request.Caps))
	}
	q.values, q.item_values = floats(&pinner, request.Values), floats(&pinner, request.ItemValues)
	if len(request.ItemIDs) > 0 {
		pinner.Pin(&request.ItemIDs[0])
		q.item_ids = (*C.int64_t)(&request.ItemIDs[0])
	}
	if request.Scenario != nil {
		name := C.CString(*request.Scenario)
		defer C.free(unsafe.Pointer(name))
		q.scenario, q.scenario_size = name, C.size_t(len(*request.Scenario))
	}
	if request.Explore {
		q.flags = C.PYGRADE_REQUEST_EXPLORE
		if request.Draw != nil {
			q.flags |= C.PYGRADE_REQUEST_DRAW
			q.draw = C.uint64_t(*request.Draw)
		}
	}

	page := &Page{Values: make([]float32, k), Indices: make([]int32, k)}
	page.Weights, page.Concentration = make([]float32, tasks), make([]float32, tasks)
	var p C.pygrade_page
	p.size, p.k = C.size_t(unsafe.Sizeof(p)), C.size_t(k)
	p.values, p.indices = floats(&pinner, page.Values), integers(&pinner, page.Indices)
	p.weights, p.concentration = floats(&pinner, page.Weights), floats(&pinner, page.Concentration)
	if err := failure.of(C.pygrade_ranker_rank(r.handle, &q, &p)); err != nil {
		return nil, err
	}
	runtime.KeepAlive(r)
	page.Filled, page.Fallback, page.Explored = int(p.filled), p.fallback != 0, p.explored != 0
	page.MissingItems = int(p.missing_items)
	page.Draw, page.MixtureWeight, page.PolicyVersion = uint64(p.seed), float32(p.mixture_weight), C.GoString(&p.policy_version[0])
	return page, nil
}
