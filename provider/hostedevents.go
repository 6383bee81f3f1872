package provider

import (
	"errors"
	"net/http"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// qrEvents is GET /login/qr/events (protocol §5): what qrState answers, as Server-Sent Events,
// bound to the flow's cookie. It changes nothing.
func (p *Provider) qrEvents(w http.ResponseWriter, r *http.Request) {
	flow, ok := p.ownFlow(r)
	if !ok || !p.ownPage(r) {
		p.notFound(w, r)
		return
	}
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	err := p.qr.HostedEvents(w, r, flow, p.shownName)
	var fault *qr.TokenError
	switch {
	case err == nil:
	case errors.Is(err, storage.ErrNotFound):
		p.notFound(w, r)
	case errors.As(err, &fault):
		p.qr.WriteTokenError(w, r, fault)
	default:
		p.writeError(w, r, unavailable(err))
	}
}

// ownPage reports whether one of our own pages sent the request, and not somebody who only has
// the cookie sent along: a browser names the origin, or says that it is the same. A request that says neither
// is no page's.
func (p *Provider) ownPage(r *http.Request) bool {
	origin := r.Header.Values("Origin")
	if len(origin) == 0 {
		return r.Header.Get("Sec-Fetch-Site") == "same-origin"
	}
	return len(origin) == 1 && origin[0] == originText(p.issuer)
}
