package provider

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// flowState is the answer of GET /login/qr/state: the poll of the direct door, for the page.
type flowState struct {
	Status string     `json:"qr_status"`
	Seq    uint64     `json:"qr_seq"`
	Frame  *flowFrame `json:"qr,omitempty"`
	// CheckCode is there once scanned, Name once approved.
	CheckCode string `json:"check_code,omitempty"`
	Name      string `json:"name,omitempty"`
	// ExpiresIn is how long the present state can last, in seconds; zero at an end.
	ExpiresIn int64 `json:"expires_in,omitempty"`
}

type flowFrame struct {
	Payload  string `json:"payload"`
	RotateIn int64  `json:"rotate_in"`
}

// qrState is GET /login/qr/state (protocol §5): with Prefer: wait=N a long poll, bound to the
// flow's cookie. It changes nothing.
func (p *Provider) qrState(w http.ResponseWriter, r *http.Request) {
	flow, ok := p.ownFlow(r)
	if !ok {
		p.notFound(w, r)
		return
	}
	screen, held, err := p.qr.WaitScreen(r.Context(), flow, r.Header.Values("Prefer"), r.URL.Query().Get("qr_seq"))
	switch {
	case r.Context().Err() != nil:
		// The page was closed while it waited: nothing failed, so nothing is logged.
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case errors.Is(err, storage.ErrNotFound):
		p.notFound(w, r)
		return
	case err != nil:
		p.writeError(w, r, unavailable(err))
		return
	}
	name, err := p.shownName(r.Context(), screen.Subject)
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	state := flowState{Status: screen.Status, Seq: screen.Seq, CheckCode: screen.CheckCode, Name: name, ExpiresIn: wholeSeconds(screen.ExpiresIn)}
	if screen.Payload != "" {
		state.Frame = &flowFrame{Payload: screen.Payload, RotateIn: wholeSeconds(screen.RotateIn)}
	}
	if held > 0 {
		w.Header().Set("Preference-Applied", fmt.Sprintf("wait=%d", held/time.Second))
	}
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	writeJSON(w, http.StatusOK, state)
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// ownFlow is the flow that the request names, if this browser holds its cookie and the request
// comes from one of our own pages: a sibling site would send the cookie too.
func (p *Provider) ownFlow(r *http.Request) (qr.Flow, bool) {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return p.flowOf(r, r.URL.Query().Get("flow"))
	}
	return qr.Flow{}, false
}

// qrPNG and qrSVG are GET /login/qr.png and /login/qr.svg: the frame that is current now.
func (p *Provider) qrPNG(w http.ResponseWriter, r *http.Request) {
	p.drawFrame(w, r, "image/png", qr.PNG)
}

func (p *Provider) qrSVG(w http.ResponseWriter, r *http.Request) {
	p.drawFrame(w, r, "image/svg+xml", qr.SVG)
}

func (p *Provider) drawFrame(w http.ResponseWriter, r *http.Request, kind string, draw func(string) ([]byte, error)) {
	flow, ok := p.ownFlow(r)
	if !ok {
		p.notFound(w, r)
		return
	}
	screen, err := p.qr.Screen(r.Context(), flow)
	var picture []byte
	switch {
	case errors.Is(err, storage.ErrNotFound), err == nil && screen.Payload == "":
		p.notFound(w, r) // once scanned, the code leaves the screen
		return
	case err == nil:
		picture, err = draw(screen.Payload)
	}
	if err != nil {
		p.writeError(w, r, unavailable(err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	_, _ = w.Write(picture)
}

// qrFrame is GET /login/qr: the QR code alone, in a frame of the sign-in page that looks again
// by itself. Without script it is what keeps the code fresh while somebody types a password.
func (p *Provider) qrFrame(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	stale := invalidRequest("The sign-in is not known in this browser. Go back and start again.")
	flow, ok := p.ownFlow(r)
	if !ok {
		p.errorPage(w, r, stale)
		return
	}
	screen, err := p.qr.Screen(r.Context(), flow)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		p.errorPage(w, r, stale)
		return
	case err != nil:
		p.errorPage(w, r, unavailable(err))
		return
	}
	next := r.URL.Query().Get("next")
	req, found, err := p.authorizeFor(r.Context(), next)
	if !found || err != nil || requestHash(req) != screen.Request {
		p.errorPage(w, r, stale)
		return
	}
	view, err := p.viewFlow(r.Context(), b, flow, screen, next)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.renderUnder(w, r, http.StatusOK, "qrframe", view, framedPolicy+"; form-action 'self' "+formTarget(req.redirect))
}
