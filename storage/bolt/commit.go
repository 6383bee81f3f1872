package bolt

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/qrgrant/qrgrant/storage"
)

// maxBatch is how many units share one commit.
const maxBatch = 1000

var (
	// errClosed: the store was closed.
	errClosed = errors.New("storage/bolt: the store is closed")
	// errRerun makes bbolt drop a transaction that is to be run again.
	errRerun = errors.New("storage/bolt: run the batch again")
	// errNothing makes bbolt drop a transaction in which no unit had anything to write.
	errNothing = errors.New("storage/bolt: nothing to commit")
)

// operation is one check or one write of a unit, run inside the commit's transaction. It may
// run again in another transaction and must start from nothing each time.
type operation func(tx *bbolt.Tx) error

// request is a unit on its way to disk: all checks, then all writes, or nothing. done is
// called once, from the committer's goroutine, after the commit.
type request struct {
	checks []operation
	writes []operation
	done   func(error)
}

// committer runs units in shared transactions, one commit at a time.
type committer struct {
	db   *bbolt.DB
	wake chan struct{}
	idle chan struct{}

	mu      sync.Mutex
	queue   []*request
	closed  bool
	failure error
}

func newCommitter(db *bbolt.DB) *committer {
	c := &committer{db: db, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	go c.run()
	return c
}

// do commits a unit and waits for it. It does not give up when a context ends: whoever holds
// a session's lock must learn what became of the write.
func (c *committer) do(checks, writes []operation) error {
	answer := make(chan error, 1)
	if err := c.enqueue(&request{checks: checks, writes: writes, done: func(err error) { answer <- err }}); err != nil {
		return err
	}
	return <-answer
}

// enqueue hands a unit over without waiting.
func (c *committer) enqueue(r *request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return c.failure
	}
	if c.closed {
		return errClosed
	}
	c.queue = append(c.queue, r)
	c.signal()
	return nil
}

// err says why the committer takes no more units; nil while it does.
func (c *committer) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure == nil && c.closed {
		return errClosed
	}
	return c.failure
}

// close commits what is queued and ends the goroutine.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.signal()
	c.mu.Unlock()
	<-c.idle
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *committer) run() {
	defer close(c.idle)
	for range c.wake {
		for batch := c.take(); len(batch) > 0; batch = c.take() {
			c.commit(batch)
		}
		if c.finished() {
			return
		}
	}
}

func (c *committer) take() []*request {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), maxBatch)
	batch := c.queue[:n:n]
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		// Otherwise the array would keep what was written alive.
		c.queue = nil
	}
	return batch
}

func (c *committer) finished() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed && len(c.queue) == 0
}

// commit runs the batch until every unit has its answer. A unit that fails after its first
// write has left traces in the transaction, so the batch is run again without it.
func (c *committer) commit(batch []*request) {
	if err := c.broken(); err != nil {
		answer(batch, err)
		return
	}
	for len(batch) > 0 {
		results, dirty, err := c.attempt(batch)
		if dirty < 0 {
			for i, r := range batch {
				r.done(errors.Join(results[i], err))
			}
			return
		}
		batch[dirty].done(results[dirty])
		batch = append(batch[:dirty:dirty], batch[dirty+1:]...)
	}
}

// attempt runs the batch in one transaction. dirty is the unit to leave out next time, or -1
// when results and err are final.
func (c *committer) attempt(batch []*request) (results []error, dirty int, err error) {
	results = make([]error, len(batch))
	dirty = -1
	id := 0
	err = c.db.Update(func(tx *bbolt.Tx) error {
		id = tx.ID()
		written := false
		for i, r := range batch {
			wrote, err := r.apply(tx)
			results[i] = err
			if err != nil && wrote {
				dirty = i
				return errRerun
			}
			written = written || wrote
		}
		if !written {
			return errNothing
		}
		return nil
	})
	switch {
	case err == nil, errors.Is(err, errRerun), errors.Is(err, errNothing):
		return results, dirty, nil
	case full(err) && !c.reached(id):
		return make([]error, len(batch)), -1, fmt.Errorf("%w: %w", storage.ErrFull, err)
	default:
		return make([]error, len(batch)), -1, c.fail(err)
	}
}

// apply runs one unit. A panic is this unit's error and nobody else's.
func (r *request) apply(tx *bbolt.Tx) (wrote bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("storage/bolt: panic in a unit of work: %v", p)
		}
	}()
	for _, check := range r.checks {
		if err := check(tx); err != nil {
			return false, err
		}
	}
	for _, write := range r.writes {
		wrote = true
		if err := write(tx); err != nil {
			return true, err
		}
	}
	return wrote, nil
}

// reached reports whether the meta page of transaction id is in the file although its commit
// failed: then it is not known whether it will survive.
func (c *committer) reached(id int) bool {
	reached := true
	err := c.db.View(func(tx *bbolt.Tx) error {
		reached = tx.ID() >= id
		return nil
	})
	return err != nil || reached
}

// full tells a full disk or a reached MaxSize from a failing disk. bbolt drops the cause of
// some errors and keeps its text.
func full(err error) bool {
	if errors.Is(err, bolterrors.ErrMaxSizeReached) {
		return true
	}
	for _, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, cause) || strings.HasSuffix(err.Error(), cause.Error()) {
			return true
		}
	}
	return false
}

func (c *committer) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// fail ends all writing: what the failed commit left on disk is unknown.
func (c *committer) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = fmt.Errorf("storage/bolt: a commit failed, its outcome is unknown and nothing more is written: %w", err)
	return c.failure
}

func answer(batch []*request, err error) {
	for _, r := range batch {
		r.done(err)
	}
}
