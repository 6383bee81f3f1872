package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// grace is how long the last operations of a run may take beyond its end.
const grace = 40 * time.Second

// Crew is callers with a connection each, kept from one run to the next.
type Crew struct {
	conns []*Conn
}

// NewCrew connects n callers to the address.
func NewCrew(ctx context.Context, address string, n int) (*Crew, error) {
	crew := &Crew{}
	for range n {
		c, err := Dial(ctx, address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("connection %d of %d: %w", len(crew.conns)+1, n, err), crew.Close())
		}
		crew.conns = append(crew.conns, c)
	}
	return crew, nil
}

// Close closes every connection.
func (w *Crew) Close() error {
	var err error
	for _, c := range w.conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Len is the number of callers.
func (w *Crew) Len() int { return len(w.conns) }

// Limit ends a run: whichever is reached first. Zero is no limit, but one must be set.
type Limit struct {
	Duration time.Duration
	Count    int
}

// Step is one operation on the caller's connection. n counts the operations of the run from
// zero over all callers. It returns the time that the operation took as far as it counts.
type Step func(c *Conn, n int) (time.Duration, error)

// Timed makes a Step whose whole duration counts.
func Timed(do func(c *Conn, n int) error) Step {
	return func(c *Conn, n int) (time.Duration, error) {
		start := time.Now()
		err := do(c, n)
		return time.Since(start), err
	}
}

// Run lets every caller repeat the step until the limit: each sends its next request when it
// has the answer to its last. The first error ends the run.
func (w *Crew) Run(ctx context.Context, limit Limit, step Step) (Sample, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	for _, c := range w.conns {
		if err := c.Deadline(time.Now().Add(limit.Duration + grace)); err != nil {
			return Sample{}, err
		}
	}
	// A caller waiting for an answer sees its connection's deadline, not the context.
	unblock := context.AfterFunc(ctx, func() {
		for _, c := range w.conns {
			_ = c.Deadline(time.Unix(1, 0)) // a closed connection does not wait
		}
	})
	defer unblock()
	var next atomic.Int64
	latencies := make([][]time.Duration, len(w.conns))
	var callers sync.WaitGroup
	start := time.Now()
	for i, c := range w.conns {
		callers.Go(func() {
			var err error
			if latencies[i], err = repeat(ctx, c, start, limit, &next, step); err != nil {
				stop(err)
			}
		})
	}
	callers.Wait()
	sample := Sample{Elapsed: time.Since(start)}
	if err := context.Cause(ctx); err != nil {
		return Sample{}, err
	}
	for _, of := range latencies {
		sample.Latencies = append(sample.Latencies, of...)
	}
	return sample, nil
}

// repeat is one caller.
func repeat(ctx context.Context, c *Conn, start time.Time, limit Limit, next *atomic.Int64, step Step) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, 1024)
	for ctx.Err() == nil && (limit.Duration == 0 || time.Since(start) < limit.Duration) {
		n := int(next.Add(1)) - 1
		if limit.Count > 0 && n >= limit.Count {
			break
		}
		latency, err := step(c, n)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, latency)
	}
	return latencies, nil
}
