package provider

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// flowCookie and the flow's id name the cookie that binds a QR session to a browser.
	flowCookie = "qr-"
	// flowLifetime is how long the browser keeps that cookie: the session, and time to read
	// how it ended.
	flowLifetime = storage.QRLifetime + 10*time.Minute
	// mostFlows bounds how many of them one request makes us look up.
	mostFlows = 64

	purposeFlow = "qr-flow"
)

// flowView is the QR code on the sign-in page: every state's text is there from the start, so
// that a script only has to show another one.
type flowView struct {
	// ID names the flow; without the browser's cookie it is worth nothing.
	ID, CSRF, Next string
	Screen         *qr.Screen
	Name           string
	// The pictures, the state as JSON, the page of the frame for browsers without script.
	PNG, SVG, State, Events, Frame string
	Continue, NotMe, New           string
	// Script keeps the page fresh; where it does not run, Fallback shows the frame.
	Script, Fallback string
	// Device is where a code is typed, and DeviceShown how that is written down.
	Device, DeviceShown string
	// Refresh is when a page without script looks again, in seconds; zero never.
	Refresh int
}

// offersQR reports whether the sign-in page of the request shows a QR code: only where the
// sign-in it makes could answer the request (protocol §8).
func offersQR(req *authorizeRequest) bool { return qrBornMayUse(req.client, req.asked()) }

// requestHash is what a flow remembers of its authorization request.
func requestHash(req *authorizeRequest) [32]byte { return sha256.Sum256([]byte(req.raw)) }

// flowFor returns the flow of the request in this browser, and opens one when there is none.
// A page that is loaded again gets the one it had, ended or not. Over a limit there is none,
// and the page does without.
func (p *Provider) flowFor(w http.ResponseWriter, r *http.Request, b *browser, req *authorizeRequest) (qr.Flow, *qr.Screen, error) {
	flow, screen, err := p.findFlow(w, r, b, req)
	if err != nil || screen != nil {
		return flow, screen, err
	}
	return p.openFlow(w, r, b, req, time.Time{})
}

// findFlow looks for the flow of the request among the browser's cookies; the screen is nil
// when there is none. One that outlived the form cookie can no longer be continued.
func (p *Provider) findFlow(w http.ResponseWriter, r *http.Request, b *browser, req *authorizeRequest) (qr.Flow, *qr.Screen, error) {
	hash := requestHash(req)
	var found qr.Flow
	var screen *qr.Screen
	for _, flow := range p.flowsOf(r) {
		s, err := p.qr.Screen(r.Context(), flow)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			p.dropFlow(w, flow)
		case err != nil:
			return qr.Flow{}, nil, unavailable(err)
		case s.Request == hash && s.OpenedIn(b.formKey) && (screen == nil || screen.Ended):
			found, screen = flow, s
		}
	}
	return found, screen, nil
}

// showsFlow reports whether this browser has shown a QR code for the request within the time that
// a page may stay open.
func (p *Provider) showsFlow(r *http.Request, raw string) bool {
	c, err := r.Cookie(p.cookieName(formCookie))
	if err != nil {
		return false
	}
	hash := sha256.Sum256([]byte(raw))
	for _, flow := range p.flowsOf(r) {
		s, err := p.qr.Screen(r.Context(), flow)
		if err == nil && s.Request == hash && s.OpenedIn(c.Value) && p.config.Now().Sub(s.RequestedAt) < formLifetime {
			return true
		}
	}
	return false
}

// openFlow opens a session for the browser and sets its cookie. requestedAt is when a renewed
// flow's request came; zero is now.
func (p *Provider) openFlow(w http.ResponseWriter, r *http.Request, b *browser, req *authorizeRequest, requestedAt time.Time) (qr.Flow, *qr.Screen, error) {
	asked := qr.HostedRequest{
		Client: req.client, Scopes: req.asked(), Audience: req.audience, Browser: b.formKey, Request: requestHash(req), RequestedAt: requestedAt,
		MaxAge: req.maxAge, Hinted: req.hintSubject != "", HintSubject: req.hintSubject,
		RelyingParty: clientName(req), Origin: redirectOrigin(req.redirect),
	}
	if slices.Contains(req.prompt, "login") {
		// The phone answers with a sign-in that is newer than the request (RFC 9470).
		asked.MaxAge = new(int64)
	}
	flow, err := p.qr.OpenHosted(r, asked)
	switch {
	case errors.Is(err, qr.ErrLimited):
		return qr.Flow{}, nil, nil
	case err != nil:
		return qr.Flow{}, nil, unavailable(err)
	}
	screen, err := p.qr.Screen(r.Context(), flow)
	if err != nil {
		return qr.Flow{}, nil, unavailable(err)
	}
	p.setFlow(w, flow, int(flowLifetime/time.Second))
	return flow, screen, nil
}

// flowsOf lists the flows whose cookies the browser sent.
func (p *Provider) flowsOf(r *http.Request) []qr.Flow {
	var flows []qr.Flow
	for _, c := range r.Cookies() {
		id, ok := strings.CutPrefix(c.Name, p.cookieName(flowCookie))
		if ok && len(flows) < mostFlows {
			flows = append(flows, qr.Flow{ID: id, Secret: c.Value})
		}
	}
	return flows
}

// flowOf returns the flow that id names, if the browser sent its cookie. Without an id it is
// the only flow there is.
func (p *Provider) flowOf(r *http.Request, id string) (qr.Flow, bool) {
	flows := p.flowsOf(r)
	if id == "" && len(flows) == 1 {
		return flows[0], true
	}
	i := slices.IndexFunc(flows, func(f qr.Flow) bool { return f.ID == id })
	if i < 0 {
		return qr.Flow{}, false
	}
	return flows[i], true
}

func (p *Provider) dropFlow(w http.ResponseWriter, flow qr.Flow) {
	p.setFlow(w, qr.Flow{ID: flow.ID}, -1)
}

func (p *Provider) setFlow(w http.ResponseWriter, flow qr.Flow, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // G124: a browser drops a Secure cookie of a plain loopback page.
		Name: p.cookieName(flowCookie + flow.ID), Value: flow.Secret, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: p.issuer.Scheme == "https",
	})
}

// leaveFlow gives up the flow of a request that was answered in another way.
func (p *Provider) leaveFlow(w http.ResponseWriter, r *http.Request, b *browser, req *authorizeRequest) {
	flow, screen, err := p.findFlow(w, r, b, req)
	if err == nil && screen != nil {
		err = p.qr.CancelHosted(r.Context(), flow)
		p.dropFlow(w, flow)
	}
	if err != nil {
		p.config.Logger.WarnContext(r.Context(), "qr session not given up", "error", err)
	}
}

// flowPart is what the sign-in page shows of the flow; nil when it shows no QR code.
func (p *Provider) flowPart(w http.ResponseWriter, r *http.Request, b *browser, req *authorizeRequest, next string) (*flowView, error) {
	if !offersQR(req) {
		return nil, nil
	}
	flow, screen, err := p.flowFor(w, r, b, req)
	if err != nil || screen == nil {
		return nil, err
	}
	return p.viewFlow(r.Context(), b, flow, screen, next)
}

func (p *Provider) viewFlow(ctx context.Context, b *browser, flow qr.Flow, screen *qr.Screen, next string) (*flowView, error) {
	token, err := p.sealForm(b, purposeFlow, flow.ID+" "+next)
	if err != nil {
		return nil, err
	}
	query := "?" + url.Values{"flow": {flow.ID}}.Encode()
	v := &flowView{
		ID: flow.ID, CSRF: token, Next: next, Screen: screen, Device: p.urlOf(routeDevice),
		// Browsers complete it themselves.
		DeviceShown: strings.TrimPrefix(p.urlOf(routeDevice), "https://"),
		PNG:         p.pathOf(routeQRPNG) + query, SVG: p.pathOf(routeQRSVG) + query, State: p.pathOf(routeQRState) + query, Events: p.pathOf(routeQREvents) + query,
		Frame:    p.pathOf(routeQRFrame) + "?" + url.Values{"flow": {flow.ID}, "next": {next}}.Encode(),
		Continue: p.pathOf(routeQRContinue), NotMe: p.pathOf(routeQRNotMe), New: p.pathOf(routeQRNew),
		Script: p.pathOf(routeSignInScript), Fallback: p.pathOf(routeFrameScript), Refresh: refreshAfter(screen),
	}
	if v.Name, err = p.shownName(ctx, screen.Subject); err != nil {
		return nil, err
	}
	return v, nil
}

// refreshAfter is when a page without script looks again: for the next frame, for the decision,
// and once more when what it shows has expired.
func refreshAfter(s *qr.Screen) int {
	const decisionLook = 5 * time.Second
	wait := s.ExpiresIn
	switch s.Status {
	case "pending":
		wait = min(s.RotateIn, s.ExpiresIn)
	case "scanned":
		wait = min(decisionLook, s.ExpiresIn)
	}
	if s.Ended {
		return 0
	}
	return int(wait/time.Second) + 1
}

// shownName is the one thing the browser learns of a person before the sign-in, and only after
// the approval (protocol §12, I13); empty for nobody.
func (p *Provider) shownName(ctx context.Context, subject string) (string, error) {
	if subject == "" {
		return "", nil
	}
	user, err := p.config.Store.User(ctx, subject)
	if err != nil {
		return "", unavailable(err)
	}
	if name, ok := user.Claims["name"].(string); ok && name != "" {
		return name, nil
	}
	return user.Login, nil
}
