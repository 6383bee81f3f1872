package provider

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/qrgrant/qrgrant/storage"
)

const (
	// registrationsPerMinute bounds what one network may register.
	registrationsPerMinute = 60
	// mostRegistered is Registration.MaxClients when that is zero.
	mostRegistered = 10_000
	// countEvery is how long the number of registered clients is taken from memory: to count them
	// means to read every client.
	countEvery = time.Minute
	// unusedKept is how long a client is kept to which nobody has granted anything.
	unusedKept = 24 * time.Hour
	// registrationFull is when it is worth to try again with a server that has no place left.
	registrationFull = time.Hour
	// firstPrune is at how many limiters those are forgotten that have rested.
	firstPrune = 1024
)

// networkLimits counts what networks do, a /24 or a /56 each.
type networkLimits struct{ *minuteLimits[netip.Prefix] }

func newNetworkLimits(perMinute int) *networkLimits {
	return &networkLimits{newMinuteLimits[netip.Prefix](perMinute)}
}

// take counts one deed of the network around an address, as minuteLimits.take does. Those whose
// address is not known share one.
func (l *networkLimits) take(a netip.Addr, now time.Time) (wait time.Duration) {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	return l.minuteLimits.take(prefixOf(a, bits), now)
}

// minuteLimits counts what each of many does: so much at once, and as much more in every minute. A
// restart forgets it.
type minuteLimits[K comparable] struct {
	perMinute int

	mu       sync.Mutex
	limiters map[K]*rate.Limiter
	pruneAt  int
}

func newMinuteLimits[K comparable](perMinute int) *minuteLimits[K] {
	return &minuteLimits[K]{perMinute: perMinute, limiters: make(map[K]*rate.Limiter), pruneAt: firstPrune}
}

// take counts one deed. Beyond the limit it counts nothing and returns how long to wait.
func (l *minuteLimits[K]) take(who K, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.limiters[who]
	if limiter == nil {
		l.prune(now)
		limiter = rate.NewLimiter(rate.Every(time.Minute/time.Duration(l.perMinute)), l.perMinute)
		l.limiters[who] = limiter
	}
	place := limiter.ReserveN(now, 1)
	if wait = place.DelayFrom(now); wait > 0 {
		place.CancelAt(now)
	}
	return wait
}

// prune forgets those that have rested, when there are twice as many as were left the last time.
func (l *minuteLimits[K]) prune(now time.Time) {
	if len(l.limiters) < l.pruneAt {
		return
	}
	for who, limiter := range l.limiters {
		if limiter.TokensAt(now) >= float64(l.perMinute) {
			delete(l.limiters, who)
		}
	}
	l.pruneAt = max(firstPrune, 2*len(l.limiters))
}

// registrations is what is known of the clients that registered themselves.
type registrations struct {
	networks *networkLimits

	// mu is held while one is stored, so that this process keeps to MaxClients exactly; several
	// on one store may go beyond it by what they register in countEvery.
	mu      sync.Mutex
	kept    int
	counted time.Time
}

func newRegistrations() *registrations {
	return &registrations{networks: newNetworkLimits(registrationsPerMinute)}
}

func tooMany(wait time.Duration, sentence string) *oauthError {
	return &oauthError{status: http.StatusTooManyRequests, code: "temporarily_unavailable", description: sentence, wait: wait}
}

// addClient stores a client that registered itself, if there is a place for it.
func (p *Provider) addClient(ctx context.Context, c *storage.Client) error {
	r := p.registered
	r.mu.Lock()
	defer r.mu.Unlock()
	now := p.config.Now()
	if r.counted.IsZero() || now.Sub(r.counted) >= countEvery {
		if err := p.countClients(ctx, now); err != nil {
			return unavailable(err)
		}
	}
	if limit := p.config.Registration.MaxClients; r.kept >= limit && limit > 0 || limit == 0 && r.kept >= mostRegistered {
		return tooMany(registrationFull, "The server has no place for more clients.")
	}
	if err := p.config.Store.PutClient(ctx, c); err != nil {
		return unavailable(err)
	}
	r.kept++
	return nil
}

// countClients counts the registered clients, and removes those that nobody has ever granted
// anything to: otherwise whoever registers for nothing would in the end keep everybody out.
func (p *Provider) countClients(ctx context.Context, now time.Time) error {
	clients, err := p.config.Store.Clients(ctx)
	if err != nil {
		return fmt.Errorf("provider: count the clients: %w", err)
	}
	kept := 0
	for _, c := range clients {
		if c.Source != storage.ClientRegistered {
			continue
		}
		if unused(c) && !now.Before(c.FreshUntil) {
			err := p.removeUnused(ctx, c.ID)
			if err == nil || errors.Is(err, storage.ErrNotFound) {
				continue
			}
			if !errors.Is(err, storage.ErrConflict) {
				return fmt.Errorf("provider: remove an unused client: %w", err)
			}
		}
		kept++
	}
	p.registered.kept, p.registered.counted = kept, now
	return nil
}

// unused reports whether nobody has granted a registered client anything yet: until then
// FreshUntil is when it is forgotten.
func unused(c *storage.Client) bool {
	return c.Source == storage.ClientRegistered && !c.FreshUntil.IsZero()
}

// removeUnused removes a client that nobody has granted anything; storage.ErrConflict when somebody
// has, if only this moment.
func (p *Provider) removeUnused(ctx context.Context, id string) error {
	return p.config.Store.Tx(ctx, func(ctx context.Context) error {
		err := p.config.Store.UpdateClient(ctx, id, func(c *storage.Client) error {
			if !unused(c) {
				return storage.ErrConflict
			}
			return nil
		})
		if err != nil {
			return err
		}
		return p.config.Store.DeleteClient(ctx, id)
	})
}

// granted notes, in the unit of work that makes a code, that a person uses the client: one that
// registered itself is kept from then on, and one that a document describes is stored, so that
// its tokens need no document. Any other is left alone.
func (p *Provider) granted(ctx context.Context, c *storage.Client) error {
	switch {
	case unused(c):
		// It may be replaced, switched off or removed until the unit commits.
		return p.config.Store.UpdateClient(ctx, c.ID, func(stored *storage.Client) error {
			stored.FreshUntil = time.Time{}
			return nil
		})
	case c.Source == storage.ClientMetadata:
		return p.documents.keep(ctx, c)
	}
	return nil
}

// replaceClient stores a client that was changed, unless it has been removed since the request
// began.
func (p *Provider) replaceClient(ctx context.Context, c *storage.Client) error {
	err := p.config.Store.UpdateClient(ctx, c.ID, func(stored *storage.Client) error {
		replaced := *c
		replaced.Disabled, replaced.FreshUntil = stored.Disabled, stored.FreshUntil
		*stored = replaced
		return nil
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return badRegistrationToken()
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// mayRegister checks the initial access token (RFC 7591 §3), compared with every one, however
// early one matches. Where anybody may register, it counts the network.
func (p *Provider) mayRegister(r *http.Request) error {
	if p.config.Registration.Open {
		if wait := p.registered.networks.take(p.clientAddress(r), p.config.Now()); wait > 0 {
			return tooMany(wait, "Too many clients were registered from this network.")
		}
		return nil
	}
	sent := soleBearer(r)
	if sent == "" {
		return &bearerError{status: http.StatusUnauthorized, scheme: schemeBearer, description: "Send an initial access token as Bearer."}
	}
	sum := sha256.Sum256([]byte(sent))
	match := 0
	for _, token := range p.config.Registration.InitialTokens {
		match |= subtle.ConstantTimeCompare(sum[:], token[:])
	}
	if match != 1 {
		return badRegistrationToken()
	}
	return nil
}

// badRegistrationToken says the same of a wrong token and, of a client's registration, of none and
// of a client that is not there (RFC 7592 §2.1).
func badRegistrationToken() error {
	return &bearerError{
		status: http.StatusUnauthorized, scheme: schemeBearer, code: "invalid_token", description: "The registration needs another token.",
	}
}

// soleBearer returns the bearer token of the header; empty unless there is exactly one.
func soleBearer(r *http.Request) string {
	header := r.Header.Values("Authorization")
	if len(header) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// registeredClient returns the client whose registration access token the request brings
// (RFC 7592 §2): one that registered itself and is not switched off.
func (p *Provider) registeredClient(r *http.Request, id string) (*storage.Client, error) {
	token := soleBearer(r)
	// The ids of ours are short; what is not one is nobody's.
	if token == "" || id == "" || len(id) > longestClientText {
		return nil, badRegistrationToken()
	}
	clients, err := p.tokens.Client(r.Context(), id)
	if isUnknownClient(err) {
		return nil, badRegistrationToken()
	}
	if err != nil {
		return nil, unavailable(err)
	}
	sum := sha256.Sum256([]byte(token))
	c := clients.Client
	if c.Source != storage.ClientRegistered || c.RegistrationTokenHash == [32]byte{} || subtle.ConstantTimeCompare(sum[:], c.RegistrationTokenHash[:]) != 1 {
		return nil, badRegistrationToken()
	}
	return c, nil
}

// forgetClient removes a client with all that people have given it (RFC 7592 §2.3). One that has
// been given nothing costs no look at every person: anybody may register and remove such clients.
func (p *Provider) forgetClient(ctx context.Context, id string) error {
	// Whoever asked for it may hang up; half of it done would leave tokens nobody can end.
	ctx = context.WithoutCancel(ctx)
	err := p.removeUnused(ctx, id)
	if errors.Is(err, storage.ErrConflict) {
		err = RemoveClient(ctx, p.config.Store, id, p.config.Now())
	}
	if errors.Is(err, storage.ErrNotFound) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	p.registered.mu.Lock()
	defer p.registered.mu.Unlock()
	p.registered.kept = max(0, p.registered.kept-1)
	return nil
}
