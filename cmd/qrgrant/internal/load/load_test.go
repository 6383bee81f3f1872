package load_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
)

// serve starts a server and connects n callers to it.
func serve(t *testing.T, n int, handler http.Handler) (*load.Crew, load.Target) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	target, err := load.NewTarget(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	crew, err := load.NewCrew(t.Context(), target.Address, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crew.Close() })
	return crew, target
}

func TestDoReadsWhatNetHTTPSends(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 5000)
	answers := map[string]struct {
		status int
		held   bool
		body   string
	}{
		"/short":   {200, false, "short"},
		"/empty":   {204, false, ""},
		"/held":    {400, true, "pending"},
		"/chunked": {200, false, long},
		"/again":   {200, false, "short"},
	}
	crew, target := serve(t, 1, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := answers[r.URL.Path]
		if want.held {
			w.Header().Set("Preference-Applied", "wait=5")
		}
		w.WriteHeader(want.status)
		// Longer than net/http's buffer, so in chunks.
		_, _ = io.WriteString(w, want.body)
	}))
	paths := []string{"/short", "/empty", "/held", "/chunked", "/again"}
	_, err := crew.Run(t.Context(), load.Limit{Count: len(paths)}, func(c *load.Conn, n int) (time.Duration, error) {
		answer, err := c.Do(target.Get(paths[n]))
		if err != nil {
			return 0, err
		}
		want := answers[paths[n]]
		if answer.Status != want.status || answer.Held != want.held || string(answer.Body) != want.body {
			t.Errorf("%s: %d, held %t, %d bytes", paths[n], answer.Status, answer.Held, len(answer.Body))
		}
		return 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRunEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	crew, target := serve(t, 8, load.BareHandler())
	sample, err := crew.Run(t.Context(), load.Limit{Count: 100}, load.BareStep(target))
	if err != nil || len(sample.Latencies) != 100 || sample.PerSecond() <= 0 {
		t.Fatalf("%d operations at %f/s, %v", len(sample.Latencies), sample.PerSecond(), err)
	}
	sample, err = crew.Run(t.Context(), load.Limit{Duration: 20 * time.Millisecond}, load.BareStep(target))
	if err != nil || len(sample.Latencies) == 0 || sample.Elapsed < 20*time.Millisecond {
		t.Fatalf("%d operations in %s, %v", len(sample.Latencies), sample.Elapsed, err)
	}
}

func TestRunEndsAtTheFirstError(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	hang := make(chan struct{})
	crew, target := serve(t, 4, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(hang) })
	fault := errors.New("fault")
	_, err := crew.Run(t.Context(), load.Limit{Count: 1000}, func(c *load.Conn, n int) (time.Duration, error) {
		if n == 3 {
			return 0, fault
		}
		_, err := c.Do(target.Get("/"))
		return 0, err
	})
	if !errors.Is(err, fault) || asked.Load() > 4 {
		t.Fatalf("%v after %d requests", err, asked.Load())
	}
}

func TestOnlyLoopbackIsDialled(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"192.0.2.1:80", "example.org:80", "0.0.0.0:80", "[2001:db8::1]:80", "127.0.0.1"} {
		if c, err := load.Dial(t.Context(), address); err == nil {
			t.Errorf("%s was dialled: %v", address, c.Close())
		}
	}
	for _, issuer := range []string{"http://192.0.2.1", "https://127.0.0.1:1", "127.0.0.1:80", "http://localhost:1/?x", "http://user@localhost"} {
		if _, err := load.NewTarget(issuer); err == nil {
			t.Errorf("%s was accepted", issuer)
		}
	}
}

func TestQuantilesAndMedian(t *testing.T) {
	t.Parallel()
	sample := load.Sample{}
	for n := 100; n > 0; n-- {
		sample.Latencies = append(sample.Latencies, time.Duration(n))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := sample.Quantile(q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := (load.Sample{}).Quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %d", got)
	}
	for _, row := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := load.Median(row.values); got != row.want {
			t.Errorf("median of %v is %v, want %v", row.values, got, row.want)
		}
	}
}

func TestProcessFigures(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("there is no /proc here")
	}
	cpu, err := load.CPUTime(os.Getpid())
	if err != nil || cpu < 0 {
		t.Errorf("processor time %s, %v", cpu, err)
	}
	memory, err := load.ResidentBytes(os.Getpid())
	if err != nil || memory < 1<<20 {
		t.Errorf("%d bytes resident, %v", memory, err)
	}
	// No process has the number 0, and none may be made up.
	if _, err := load.CPUTime(0); err == nil {
		t.Error("process 0 has a processor time")
	}
}
