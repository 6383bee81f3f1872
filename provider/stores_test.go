package provider_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// openings keeps the address of the last QR session that was opened.
type openings struct {
	storage.Store
	address string
}

func (o *openings) CreateQRSession(ctx context.Context, s *storage.QRSession) error {
	o.address = s.Address
	return o.Store.CreateQRSession(ctx, s)
}

// panicking is a store whose refresh tokens cannot be stored while on is set.
type panicking struct {
	storage.Store
	on atomic.Bool
}

func (p *panicking) PutToken(ctx context.Context, t *storage.Token) error {
	if p.on.Load() && t.Kind == storage.TokenRefresh {
		panic("a bug in the middle of a unit of work")
	}
	return p.Store.PutToken(ctx, t)
}

// together is a store that, once on, commits no unit of work before two have been prepared.
type together struct {
	storage.Store
	on       atomic.Bool
	prepared sync.WaitGroup
}

type insideKey struct{}

func (g *together) Tx(ctx context.Context, fn func(context.Context) error) error {
	if ctx.Value(insideKey{}) != nil {
		// It joins the unit that waits.
		return g.Store.Tx(ctx, fn)
	}
	return g.Store.Tx(context.WithValue(ctx, insideKey{}, true), func(ctx context.Context) error {
		err := fn(ctx)
		if g.on.Load() {
			g.prepared.Done()
			g.prepared.Wait()
		}
		return err
	})
}

var errDisk = errors.New("the disk is on fire")

func (failing) RevokeTokens(context.Context, storage.TokenFilter, time.Time) (int, error) {
	return 0, errDisk
}

func (failing) UseToken(context.Context, storage.TokenKind, storage.TokenSignature, time.Time) error {
	return errDisk
}

func (s *switchable) wrap(inner storage.Store) storage.Store { s.Store = inner; return s }

func (s *switchable) RevokeTokens(ctx context.Context, f storage.TokenFilter, now time.Time) (int, error) {
	if s.on.Load() {
		return failing{}.RevokeTokens(ctx, f, now)
	}
	return s.Store.RevokeTokens(ctx, f, now)
}

func (s *switchable) UseToken(ctx context.Context, k storage.TokenKind, sig storage.TokenSignature, now time.Time) error {
	if s.on.Load() {
		return failing{}.UseToken(ctx, k, sig, now)
	}
	return s.Store.UseToken(ctx, k, sig, now)
}

// loginsDown is a store that finds nobody by login while on is set.
type loginsDown struct {
	storage.Store
	on atomic.Bool
}

func (l *loginsDown) UserByLogin(ctx context.Context, login string) (*storage.User, error) {
	if l.on.Load() {
		return nil, errors.New("the disk is gone")
	}
	return l.Store.UserByLogin(ctx, login)
}

func (r *recording) wrap(inner storage.Store) storage.Store { r.Store = inner; return r }

func (r *recording) PutToken(ctx context.Context, t *storage.Token) error {
	r.mu.Lock()
	r.tokens = append(r.tokens, *t)
	r.mu.Unlock()
	return r.Store.PutToken(ctx, t)
}

func (r *recording) Tx(ctx context.Context, fn func(context.Context) error) error {
	r.mu.Lock()
	r.units++
	r.mu.Unlock()
	return r.Store.Tx(ctx, fn)
}
