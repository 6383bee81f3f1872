package provider_test

import (
	"context"
	"sync"
	"sync/atomic"

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

func (g *together) Tx(ctx context.Context, fn func(context.Context) error) error {
	return g.Store.Tx(ctx, func(ctx context.Context) error {
		err := fn(ctx)
		if g.on.Load() {
			g.prepared.Done()
			g.prepared.Wait()
		}
		return err
	})
}
