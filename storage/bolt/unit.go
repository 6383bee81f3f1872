package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/qrgrant/qrgrant/storage"
)

// errOver: a write came with the context of a unit of work that has ended.
var errOver = errors.New("storage/bolt: the unit of work is over")

// unit is a unit of work: writes that are collected and applied together. It belongs to the
// goroutine that runs the function given to Tx.
type unit struct {
	checks []operation
	writes []operation
	// sessions are locked until the unit ends; order keeps their writes in turn.
	sessions map[storage.QRID]*staged
	order    []*staged
	// failed is the first error of a Tx inside this one; it fails the whole.
	failed error
	over   bool
}

// staged is a QR session inside a unit: as it stands in the store, and as the unit leaves it.
type staged struct {
	id     storage.QRID
	code   storage.UserCodeHash
	before []byte
	after  []byte
	// current is after, decoded, to know deadlines and durability.
	current *storage.QRSession
	// rows are those not yet on disk, the unit's own last.
	rows []row
	// created sessions hold a reserved place and their user code until published.
	created   bool
	published bool
	// flush asks for a write to disk although the unit changed nothing.
	flush bool
}

func (st *staged) changed() bool { return !bytes.Equal(st.before, st.after) }

// unitKey finds the unit of one store in a context.
type unitKey struct{ store *Store }

func (s *Store) unitIn(ctx context.Context) *unit {
	u, _ := ctx.Value(unitKey{s}).(*unit)
	return u
}

// Tx implements storage.Store. A Tx inside a Tx whose function fails makes the outer one fail
// too: its writes cannot be told apart from those around it.
func (s *Store) Tx(ctx context.Context, fn func(ctx context.Context) error) error {
	if u := s.unitIn(ctx); u != nil {
		return u.join(ctx, fn)
	}
	u := &unit{}
	// Runs in a panic too: locks and places are given back, the panic goes on.
	defer s.end(u)
	if err := fn(context.WithValue(ctx, unitKey{s}, u)); err != nil {
		return err
	}
	if u.failed != nil {
		return u.failed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.commit(u)
}

func (u *unit) join(ctx context.Context, fn func(ctx context.Context) error) error {
	if u.over {
		return errOver
	}
	finished := false
	defer func() {
		if !finished && u.failed == nil {
			u.failed = errors.New("storage/bolt: panic in a unit of work inside another")
		}
	}()
	err := fn(ctx)
	finished = true
	if err != nil && u.failed == nil {
		u.failed = err
	}
	return err
}

// write adds to the unit in ctx, or commits a unit of one.
func (s *Store) write(ctx context.Context, check, write operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if u := s.unitIn(ctx); u != nil {
		if u.over {
			return errOver
		}
		if check != nil {
			u.checks = append(u.checks, check)
		}
		u.writes = append(u.writes, write)
		return nil
	}
	var checks []operation
	if check != nil {
		checks = []operation{check}
	}
	return s.committer.do(checks, []operation{write})
}

// stage locks a session for the unit and reads it, unless the unit has it already.
func (s *Store) stage(ctx context.Context, u *unit, id storage.QRID) (*staged, error) {
	if st := u.sessions[id]; st != nil {
		return st, nil
	}
	if err := s.lock(ctx, u, id); err != nil {
		return nil, err
	}
	return s.load(u, id)
}

// load reads a session whose lock was just taken into the unit; without one it gives the
// lock back.
func (s *Store) load(u *unit, id storage.QRID) (*staged, error) {
	raw, err := s.rawSession(id)
	if err != nil {
		s.locks.release(id)
		return nil, err
	}
	current, err := decode[storage.QRSession](s.codec, raw)
	if err != nil {
		s.locks.release(id)
		return nil, err
	}
	st := &staged{
		id: id, code: current.UserCodeHash, before: raw, after: raw, current: current,
		rows: s.memory.rows(id),
	}
	u.add(st)
	return st, nil
}

// lock waits for the first session of a unit only: two units that wait for each other's
// second session would wait for ever.
func (s *Store) lock(ctx context.Context, u *unit, id storage.QRID) error {
	if len(u.sessions) == 0 {
		return s.locks.acquire(ctx, id)
	}
	if !s.locks.try(id) {
		return fmt.Errorf("storage/bolt: a second session of the unit is busy: %w", storage.ErrConflict)
	}
	return nil
}

func (u *unit) add(st *staged) {
	if u.sessions == nil {
		u.sessions = map[storage.QRID]*staged{}
	}
	u.sessions[st.id] = st
	u.order = append(u.order, st)
}

// commit applies the unit. If all it did is lazy it is published at once and written behind;
// otherwise everything in it goes to disk in one transaction first.
func (s *Store) commit(u *unit) error {
	s.life.RLock()
	defer s.life.RUnlock()
	if err := s.committer.err(); err != nil {
		return err
	}
	lazy := len(u.checks)+len(u.writes) == 0
	changed := make([]*staged, 0, len(u.order))
	for _, st := range u.order {
		if st.flush || st.changed() {
			changed = append(changed, st)
			lazy = lazy && !st.flush && st.current.Lazy()
		}
	}
	switch {
	case len(changed)+len(u.writes) == 0:
		return nil
	case lazy:
		for _, st := range changed {
			s.publishLazily(st)
		}
		return nil
	}
	writes := u.writes
	for _, st := range changed {
		writes = append(writes, s.putSession(st.after, st.current, st.rows))
	}
	if err := s.committer.do(u.checks, writes); err != nil {
		return err
	}
	for _, st := range changed {
		st.published = true
		s.memory.drop(st.id, st.code)
		if st.created {
			s.memory.count.Add(-1)
		}
		if st.changed() {
			s.hub.wake(st.id)
		}
	}
	return nil
}

// end gives back what the unit holds.
func (s *Store) end(u *unit) {
	u.over = true
	for _, st := range u.order {
		if st.created && !st.published {
			s.memory.freeCode(st.code, st.id)
			s.memory.count.Add(-1)
		}
		s.locks.release(st.id)
	}
}
