package provider

import (
	"errors"
	"net/http"
	"strings"

	"github.com/qrgrant/qrgrant/provider/qr"
)

const (
	// holdCookie keeps a frame that came by /Q until the person has signed in. We seal it for
	// the browser; nothing is stored.
	holdCookie    = "qrgrant-hold"
	purposeHold   = "q-hold"
	purposeQClaim = "q-claim"
	// longestFrame is more than any frame has after the number sign.
	longestFrame = 64
)

// qView is the page a QR code leads to: without script it asks for the user code.
type qView struct {
	Action, Hold, CSRF, Script string
	Fault                      string
}

// holdView is the page between the QR code and the claim.
type holdView struct {
	Action, CSRF       string
	Logout, LogoutCSRF string
	Name               string
}

// q is GET /Q, where a QR code leads that was scanned outside the app. The frame stands in the
// fragment, which no browser sends: the page's script posts it to /Q/hold and takes it out of
// the address bar. Without script, or without the app, the person types the user code.
func (p *Provider) q(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.qPage(w, r, b, http.StatusOK, "")
}

func (p *Provider) qPage(w http.ResponseWriter, r *http.Request, b *browser, status int, fault string) {
	token, err := p.sealForm(b, purposeHold, "")
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.renderUnder(w, r, status, "q", qView{
		Action: p.pathOf(routeDevice), Hold: p.pathOf(routeQHold), CSRF: token, Script: p.pathOf(routeQScript), Fault: fault,
	}, pagePolicy+scriptPolicy+formPolicy(nil))
}

// qHold is POST /Q/hold: the frame is checked while it is fresh, and kept in a cookie for as long
// as signing in takes. No session moves: it takes the person's own POST to claim.
func (p *Provider) qHold(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err == nil {
		err = p.checkForm(b, purposeHold, "", r.PostForm.Get("csrf"))
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	frame := r.PostForm.Get("frame")
	frame = frame[:min(len(frame), longestFrame)]
	var problem *qr.Problem
	err = p.qr.Hold(r.Context(), p.clientAddress(r), p.payloadOf(frame))
	switch {
	case errors.As(err, &problem) && problem.Status < http.StatusInternalServerError:
		p.qProblem(w, r, b, problem)
		return
	case err != nil:
		p.errorPage(w, r, err)
		return
	}
	seal, err := p.sealForm(&browser{formKey: b.formKey}, holdCookie, frame)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.setHold(w, frame+"."+seal, int(qr.HoldLifetime.Seconds()))
	http.Redirect(w, r, p.pathOf(routeQClaim), http.StatusSeeOther)
}

// payloadOf is the whole text of the QR code whose fragment the browser has sent.
func (p *Provider) payloadOf(frame string) string { return p.config.Issuer + "/Q#" + frame }

// qProblem says why a frame is refused, on the page that still takes the user code.
func (p *Provider) qProblem(w http.ResponseWriter, r *http.Request, b *browser, problem *qr.Problem) {
	if problem.Status == http.StatusTooManyRequests {
		p.errorPage(w, r, tooManyTries(problem))
		return
	}
	// What was held before is not what the person has opened last.
	p.setHold(w, "", -1)
	fault := problemText(problem.Code)
	if problem.Code == "not_found" {
		fault = "This is no QR code of this server."
	}
	p.qPage(w, r, b, problem.Status, fault)
}

// qClaim is GET, HEAD and POST /Q/claim: the person signs in, is told what came by the link, and
// only their own POST claims.
func (p *Provider) qClaim(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	frame, held := p.heldFrame(r, b)
	switch {
	case !held:
		p.qPage(w, r, b, http.StatusGone, "Too much time has passed since the scan. Scan the QR code again.")
	case b.session == nil || b.session.QRBorn:
		p.approverSignIn(w, r, b, p.pathOf(routeQClaim))
	case r.Method != http.MethodPost:
		p.holdPage(w, r, b, frame)
	default:
		// The yes is to the frame that the page was shown for: a link may have brought another since.
		if err := p.checkForm(b, purposeQClaim, frame, r.PostForm.Get("csrf")); err != nil {
			p.errorPage(w, r, err)
			return
		}
		// It is good for one claim, whatever comes of it.
		p.setHold(w, "", -1)
		p.claim(w, r, b, qr.ScanRequest{Payload: p.payloadOf(frame), Entry: "link", Held: true})
	}
}

// heldFrame is what this browser was given to hold less than qr.HoldLifetime ago. The seal is of
// the browser and not of its sign-in, which is made in between.
func (p *Provider) heldFrame(r *http.Request, b *browser) (string, bool) {
	c, err := r.Cookie(p.cookieName(holdCookie))
	if err != nil {
		return "", false
	}
	frame, seal, _ := strings.Cut(c.Value, ".")
	at, err := p.sealedAt(&browser{formKey: b.formKey}, holdCookie, frame, seal)
	return frame, err == nil && p.config.Now().Sub(at) < qr.HoldLifetime
}

func (p *Provider) holdPage(w http.ResponseWriter, r *http.Request, b *browser, frame string) {
	claim, err := p.sealForm(b, purposeQClaim, frame)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	account, err := p.accountForm(r, b)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.render(w, r, http.StatusOK, "hold", holdView{
		Action: p.pathOf(routeQClaim), CSRF: claim, Logout: p.pathOf(routeLogout), LogoutCSRF: account.csrf, Name: account.name,
	})
}

func (p *Provider) setHold(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // G124: a browser drops a Secure cookie of a plain loopback page.
		Name: p.cookieName(holdCookie), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: p.issuer.Scheme == "https",
	})
}
