package load

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	barePath = "/bare"
	bareSize = 200
)

// BareHandler is the yardstick: what net/http alone can do for a request like a poll. It parses
// the form, checks one field and answers 200 bytes of JSON.
func BareHandler() http.Handler {
	const head, tail = `{"state":"`, `"}`
	answer := head + strings.Repeat("x", bareSize-len(head)-len(tail)) + tail
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+barePath, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != grant {
			http.Error(w, "bad form", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", jsonType)
		_, _ = io.WriteString(w, answer) // the peer is gone; there is nobody left to tell
	})
	// The first answer of a cold start is measured too.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = io.WriteString(w, answer)
	})
	return mux
}

// BareStep asks the BareHandler behind t, with a form as long as that of a poll.
func BareStep(t Target) Step {
	head := t.head(http.MethodPost, barePath, formType)
	f := NewFlow(t, "bench", nil)
	body := f.pollBody + strings.Repeat("d", 64)
	return Timed(func(c *Conn, _ int) error {
		c.out = compose(c.out, head, body)
		answer, err := c.Do(c.out)
		if err == nil && (answer.Status != http.StatusOK || len(answer.Body) != bareSize) {
			err = unexpected("bare handler", answer)
		}
		return err
	})
}

// FirstAnswer dials the address until it answers path with 200, and gives up after patience.
func FirstAnswer(t Target, dial func() (*Conn, error), path string, patience time.Duration) error {
	for over := time.Now().Add(patience); ; {
		c, err := dial()
		if err == nil {
			_ = c.Deadline(over) // an expired deadline ends the loop
			var answer Answer
			answer, err = c.Do(t.Get(path))
			_ = c.Close() // it has been read
			if err == nil && answer.Status == http.StatusOK {
				return nil
			}
			if err == nil {
				err = unexpected("start", answer)
			}
		}
		if time.Now().After(over) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}
