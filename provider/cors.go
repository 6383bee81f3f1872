package provider

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// originsLifetime is how long a preflight may trust an older list of origins; it bounds what
// preflights cost. The request behind it is judged by its own client as it is stored.
const originsLifetime = 10 * time.Second

// The headers of the CORS protocol (WHATWG Fetch §3.2).
const (
	corsRequestHeaders = "Authorization, DPoP, Prefer, Content-Type"
	corsAnswerHeaders  = "WWW-Authenticate, DPoP-Nonce, Date, Retry-After, Preference-Applied"
	corsMaxAge         = "600"
)

// cors lets script of a client's own origins read what the endpoints without cookies answer.
// A preflight cannot name its client, so it passes for the origin of any; the answer itself is
// readable for the origins of the client that the request authenticates, or whose token it
// brings. Credentials are never allowed, and pages that live by cookies are not here at all.
type cors struct {
	paths map[string]string
	// session is the path of one sign-in up to its id.
	session string
	store   storage.Clients
	now     func() time.Time

	mu      sync.Mutex
	origins map[string]bool
	until   time.Time
}

// corsRoutes are the endpoints that script may call, metadata and keys aside: those are public.
func corsRoutes() []string {
	return []string{
		routeToken, routePAR, routeUserinfo, routeIntrospect, routeRevoke,
		routeDeviceStart, routeCancel, routeEvents, routeScan, routeDecision,
		routeSessions, routeRevokeAll,
	}
}

func (p *Provider) newCORS() *cors {
	c := &cors{paths: make(map[string]string), session: p.pathOf(routeSessions) + "/", store: p.config.Store, now: p.config.Now}
	for _, name := range corsRoutes() {
		path := p.pathOf(name)
		c.paths[path] = strings.Join(p.allow[path], ", ")
	}
	return c
}

// methods names what may be called at a path; empty: script may not call anything there.
func (c *cors) methods(path string) string {
	if methods, ok := c.paths[path]; ok {
		return methods
	}
	if sid, ok := strings.CutPrefix(path, c.session); ok && sid != "" && !strings.Contains(sid, "/") {
		return http.MethodDelete
	}
	return ""
}

// serve hands the request on, unless it is a preflight.
func (c *cors) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	methods := c.methods(r.URL.Path)
	if methods == "" {
		next.ServeHTTP(w, r)
		return
	}
	w.Header().Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		next.ServeHTTP(w, r)
		return
	}
	if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
		c.preflight(w, r, origin, methods)
		return
	}
	asking := &asking{origin: origin, header: w.Header()}
	next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), askingKey{}, asking)))
}

func (c *cors) preflight(w http.ResponseWriter, r *http.Request, origin, methods string) {
	h := w.Header()
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	known, err := c.registered(r.Context(), origin)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case !known:
		w.WriteHeader(http.StatusForbidden)
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", corsRequestHeaders)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	w.WriteHeader(http.StatusNoContent)
}

// registered reports whether any enabled client has a redirect URI of that origin.
func (c *cors) registered(ctx context.Context, origin string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); !now.Before(c.until) {
		clients, err := c.store.Clients(ctx)
		if err != nil {
			return false, err
		}
		c.origins, c.until = make(map[string]bool), now.Add(originsLifetime)
		for _, client := range clients {
			for _, o := range originsOf(client) {
				c.origins[o] = true
			}
		}
	}
	return c.origins[origin], nil
}

// originsOf lists the web origins of an enabled client's redirect URIs. An app's own scheme is
// nobody's origin.
func originsOf(client *storage.Client) []string {
	if client.Disabled {
		return nil
	}
	var origins []string
	for _, uri := range client.RedirectURIs {
		u, err := url.Parse(uri)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			continue
		}
		origins = append(origins, originText(u))
	}
	return origins
}

// clientOrigins is originsOf for package qr.
func clientOrigins(client fosite.Client) []string {
	c, ok := client.(fositestore.Client)
	if !ok {
		return nil
	}
	return originsOf(c.Client)
}

// originText spells an origin as browsers do: in lower case, without the default port.
func originText(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else {
		host = strings.TrimSuffix(host, ":80")
	}
	return strings.ToLower(u.Scheme) + "://" + host
}

// asking is the script behind a request, until its client is known.
type asking struct {
	origin string
	header http.Header
}

type askingKey struct{}

// answerReadable lets the request's origin read the answer when it is one of the client's.
// Who learns the client of a request calls it before the answer is written.
func answerReadable(ctx context.Context, client *storage.Client) {
	a, ok := ctx.Value(askingKey{}).(*asking)
	if !ok || client == nil || !slices.Contains(originsOf(client), a.origin) {
		return
	}
	a.header.Set("Access-Control-Allow-Origin", a.origin)
	a.header.Set("Access-Control-Expose-Headers", corsAnswerHeaders)
}

// answerReadableFor is answerReadable for the client of an id; it costs a request without
// script behind it nothing.
func (p *Provider) answerReadableFor(ctx context.Context, clientID string) error {
	if ctx.Value(askingKey{}) == nil {
		return nil
	}
	client, err := p.config.Store.Client(ctx, clientID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	answerReadable(ctx, client)
	return nil
}
