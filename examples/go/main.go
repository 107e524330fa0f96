// rank POLICY_DIR REQUESTS PAGES: ranks every request of a file and writes the pages, both in the format of
// examples/request_file.py. For a little-endian machine.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"example.com/pygrade-example/pygrade"
)

const (
	context = 1 << iota
	mask
	boostMul
	boostAdd
	groups
	scenario
	explore
	values
	itemValues
	names
)

type reader struct {
	content []byte
	at      int
}

func read[T float32 | int32 | uint32 | uint8](r *reader, wanted bool, count int) []T {
	if !wanted {
		return nil
	}
	out := make([]T, count)
	size := binary.Size(out)
	if _, err := binary.Decode(r.content[r.at:r.at+size], binary.LittleEndian, out); err != nil && count > 0 {
		panic(err)
	}
	r.at += (size + 3) / 4 * 4
	return out
}

func (r *reader) request(features, tasks int) (*pygrade.Request, int) {
	head := read[uint32](r, true, 7)
	n, k, parts, columns := int(head[0]), int(head[1]), head[2], int(head[3])
	has := func(bit uint32) bool { return parts&bit != 0 }
	q := &pygrade.Request{Candidates: n}
	q.Context = read[float32](r, has(context), features)
	q.Predictions = read[float32](r, true, n*tasks)
	q.Mask = read[uint8](r, has(mask), n)
	q.BoostMul = read[float32](r, has(boostMul), n)
	q.BoostAdd = read[float32](r, has(boostAdd), n)
	q.Groups = read[int32](r, has(groups), n*columns)
	q.Caps = read[int32](r, has(groups), columns)
	q.Values = read[float32](r, has(values), tasks)
	q.ItemValues = read[float32](r, has(itemValues), n)
	if has(names) {
		text := read[uint8](r, true, 8*n)
		for i := 0; i < n; i++ {
			q.ItemIDs = append(q.ItemIDs, pygrade.StableID(string(text[8*i:8*i+8])))
		}
	}
	if has(scenario) {
		name := string(read[uint8](r, true, int(head[4])))
		q.Scenario = &name
	}
	if has(explore) {
		draw := uint64(head[5])<<32 | uint64(head[6])
		q.Explore, q.Draw = true, &draw
	}
	return q, k
}

func number(flag bool) uint32 {
	if flag {
		return 1
	}
	return 0
}

func write(out *bytes.Buffer, page *pygrade.Page) {
	head := []uint32{uint32(len(page.Indices)), uint32(page.Filled), number(page.Fallback), number(page.Explored),
		uint32(page.Draw >> 32), uint32(page.Draw), uint32(page.MissingItems)}
	for _, part := range []any{head, page.MixtureWeight, []byte(page.PolicyVersion), page.Values, page.Indices, page.Weights,
		page.Concentration} {
		binary.Write(out, binary.LittleEndian, part) // to memory: can't fail
	}
}

// run ranks in several goroutines, while another reloads the policy.
func run(directory, requests, pages string) error {
	ranker, err := pygrade.Load(directory)
	if err != nil {
		return err
	}
	defer ranker.Close()
	content, err := os.ReadFile(requests)
	if err != nil {
		return err
	}
	r := &reader{content: content, at: 8}
	head := read[uint32](r, true, 3)
	count, features, tasks := int(head[0]), int(head[1]), int(head[2])
	type job struct {
		request *pygrade.Request
		k       int
	}
	jobs, results, failures := make([]job, count), make([]*pygrade.Page, count), make([]error, count+1)
	for i := range jobs {
		jobs[i].request, jobs[i].k = r.request(features, tasks)
	}
	var group sync.WaitGroup
	const workers = 4
	for w := 0; w < workers; w++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := w; i < count; i += workers {
				results[i], failures[i] = ranker.Rank(jobs[i].request, jobs[i].k)
			}
		}()
	}
	for i := 0; i < 10 && failures[count] == nil; i++ {
		failures[count] = ranker.Reload(directory)
	}
	group.Wait()
	for _, failure := range failures {
		if failure != nil {
			return failure
		}
	}
	var out bytes.Buffer
	out.WriteString("PGPAG001")
	binary.Write(&out, binary.LittleEndian, []uint32{uint32(count), uint32(tasks)})
	for _, page := range results {
		write(&out, page)
	}
	return os.WriteFile(pages, out.Bytes(), 0o644)
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: rank POLICY_DIR REQUESTS PAGES")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println("Go: pages by pygrade", pygrade.Version())
}
