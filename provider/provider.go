package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/gorilla/mux"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// sweepBatch is how many due records one sweep transaction removes.
const sweepBatch = 500

// Provider is an OAuth 2.0 and OpenID provider as an http.Handler.
type Provider struct {
	config      Config
	issuer      *url.URL
	router      *mux.Router
	cors        *cors
	allow       map[string][]string
	keys        *keyRing
	idTokens    *idTokenStrategy
	tokens      *fositestore.Store
	oauth       fosite.OAuth2Provider
	qr          *qr.Server
	dpop        *dpop.Verifier
	fetcher     *fetch.Fetcher
	clientKeys  *clientKeys
	documents   *documents
	registered  *registrations
	pushes      *pushLimits
	objects     objectCache
	objectReads *networkLimits
	pages       *pages
	guard       *signInGuard
	hashCosts   hashCosts
	origins     *http.CrossOriginProtection
	backchannel *backchannel
	metadata    metadataDocuments
	// unreadableHop keeps a proxy's mistake from filling the log (address.go).
	unreadableHop atomic.Bool
}

var _ http.Handler = (*Provider)(nil)

// New loads or makes the keys and returns a Provider that is ready to serve. Every fault of
// the Config is reported at once.
func New(ctx context.Context, c Config) (*Provider, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.defaults()
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("provider: issuer: %w", err)
	}
	p := &Provider{config: c, issuer: issuer, guard: newSignInGuard(c.Now)}
	if p.pages, err = loadPages(c.Templates); err != nil {
		return nil, err
	}
	if p.origins, err = newOrigins(p.origin()); err != nil {
		return nil, fmt.Errorf("provider: issuer: %w", err)
	}
	p.fetcher = fetch.New(fetch.Config{Networks: c.FetchNetworks, Roots: c.FetchRoots})
	if p.clientKeys, err = newClientKeys(&c, p.fetcher); err != nil {
		return nil, err
	}
	if p.keys, err = openKeys(ctx, &c); err != nil {
		return nil, err
	}
	p.idTokens = &idTokenStrategy{issuer: c.Issuer, keys: p.keys, now: c.Now, store: c.Store}
	p.documents, p.registered = p.newDocuments(), newRegistrations()
	p.pushes, p.objectReads = newPushLimits(&c), newNetworkLimits(objectsPerMinute)
	p.tokens = newTokens(&c, p.documents)
	p.dpop = p.newProofs()
	p.backchannel = newBackchannel(&c, p.keys)
	if c.Pairwise {
		// At the start a store that takes no key is noticed.
		_, err = p.keys.pairwiseKey()
	}
	if err := errors.Join(err, p.wire()); err != nil {
		p.keys.close()
		return nil, err
	}
	p.backchannel.start()
	return p, nil
}

// wire builds what needs the Provider itself: routes, package qr, fosite and the metadata, in
// this order.
func (p *Provider) wire() error {
	var err error
	if p.qr, err = qr.New(p.qrConfig()); err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	p.routes()
	p.cors = p.newCORS()
	p.oauth = p.composeFosite()
	return p.describe()
}

// ServeHTTP serves every route under the issuer's path.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.cors.serve(w, r, p.router) }

// Sweep removes what has expired, rotates the keys and looks for clients that another process
// left to be told of a sign-out; call it from time to time. It returns when nothing more is due
// or ctx ends.
func (p *Provider) Sweep(ctx context.Context) (removed int, err error) {
	p.backchannel.look()
	rotated := p.keys.tend(ctx)
	removed, err = p.sweepStore(ctx)
	return removed, errors.Join(rotated, err)
}

func (p *Provider) sweepStore(ctx context.Context) (removed int, err error) {
	for {
		n, more, err := p.config.Store.Sweep(ctx, p.config.Now(), sweepBatch)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("provider: sweep: %w", err)
		}
		if !more || ctx.Err() != nil {
			return removed, ctx.Err()
		}
	}
}

// Close ends held polls and waits for what runs beside the requests, for a few seconds at most.
// The store is the caller's to close, afterwards; what clients are still to be told of stands
// in it.
func (p *Provider) Close() error {
	err := p.qr.Close()
	p.backchannel.close()
	p.keys.close()
	return err
}
