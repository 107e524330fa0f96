// A page by predictions of one's own, then feedback on it: go run . [ADDRESS], of a service of what `pygrade train` wrote
// for the tasks click and order. PYGRADE_TOKEN: a token of the service, if it needs one.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

type rankRequest struct {
	User        any                  `json:"user"`
	K           int                  `json:"k"`
	Items       []string             `json:"items"` // names, or ids: "7" and 7 are one item
	Context     map[string]any       `json:"context,omitempty"`
	Predictions map[string][]float64 `json:"predictions"`
}

type page struct {
	RequestID string             `json:"request_id"`
	Items     []string           `json:"items"` // as they were sent
	Scores    []float64          `json:"scores"`
	RankedBy  []string           `json:"ranked_by"`
	Weights   map[string]float64 `json:"weights"` // nil: what ranks has none, or its own
	Policy    string             `json:"policy"`
	Degraded  *string            `json:"degraded"`
}

type event struct {
	User      any    `json:"user"`
	Item      string `json:"item"`
	Task      string `json:"task"`
	RequestID string `json:"request_id"`
	EventID   string `json:"event_id"` // a repeated event counts once
}

type client struct {
	address, token string
	http           http.Client
}

// ask posts a request. A service that is full answers 503 with Retry-After at once: serve your own order then.
func (c *client) ask(path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	post, err := http.NewRequest(http.MethodPost, c.address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		post.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(post)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, response.Status, content)
	}
	return json.Unmarshal(content, answer)
}

func main() {
	address := "http://127.0.0.1:8080"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	c := &client{strings.TrimRight(address, "/"), os.Getenv("PYGRADE_TOKEN"), http.Client{Timeout: 2 * time.Second}}
	var found page
	err := c.ask("/v1/rank", rankRequest{
		User:    7,
		K:       3,
		Items:   []string{"11", "12", "13", "14"},
		Context: map[string]any{"hour": 20, "device": "phone"},
		Predictions: map[string][]float64{
			"click": {0.11, 0.08, 0.21, 0.05},
			"order": {0.004, 0.019, 0.002, 0.001},
		},
	}, &found)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Items, "by", found.RankedBy, found.Weights, "of policy", found.Policy)
	clicked := event{7, found.Items[0], "click", found.RequestID, found.RequestID + "-1"}
	var accepted map[string]any
	if err := c.ask("/v1/update", map[string][]event{"events": {clicked}}, &accepted); err != nil {
		log.Fatal(err)
	}
}
