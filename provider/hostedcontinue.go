package provider

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// flowForm is what a form of the QR code carries, checked: our own page for this browser, the
// browser's cookie, and the request that the flow was opened for. The flow's cookie alone is not
// enough: whoever stole it has another form cookie than the browser that shows the code.
type flowForm struct {
	browser *browser
	flow    qr.Flow
	screen  *qr.Screen
	next    string
	req     *authorizeRequest
}

func (p *Provider) flowForm(w http.ResponseWriter, r *http.Request) (*flowForm, error) {
	b, err := p.browserOf(w, r)
	if err != nil {
		return nil, err
	}
	id, next := r.PostForm.Get("flow"), r.PostForm.Get("next")
	if err := p.checkForm(b, purposeFlow, id+" "+next, r.PostForm.Get("csrf")); err != nil {
		return nil, err
	}
	stale := &oauthError{status: http.StatusForbidden, code: "invalid_request", description: "The sign-in is not known in this browser. Go back and start again."}
	flow, ok := p.flowOf(r, id)
	if !ok {
		return nil, stale
	}
	screen, err := p.qr.Screen(r.Context(), flow)
	if errors.Is(err, storage.ErrNotFound) || err == nil && !screen.OpenedIn(b.formKey) {
		return nil, stale
	}
	if err != nil {
		return nil, unavailable(err)
	}
	req, found, err := p.authorizeFor(r.Context(), next)
	switch {
	case err != nil:
		return nil, err
	case !found || requestHash(req) != screen.Request:
		return nil, stale
	}
	return &flowForm{browser: b, flow: flow, screen: screen, next: next, req: req}, nil
}

// qrContinue is POST /login/qr/continue: the person at the browser takes the sign-in that the
// phone approved. Nothing before it signs anybody in, so that a stranger who scans this screen
// cannot put the person into the stranger's account (threat T13).
func (p *Provider) qrContinue(w http.ResponseWriter, r *http.Request) {
	f, err := p.flowForm(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if !offersQR(f.req) {
		// The client's policy has changed since the page was shown.
		http.Redirect(w, r, f.next, http.StatusSeeOther)
		return
	}
	session, err := p.redeemFlow(r.Context(), w, f)
	var fault *qr.TokenError
	switch {
	case errors.As(err, &fault) && fault.Status < http.StatusInternalServerError:
		// The page says what became of it.
		http.Redirect(w, r, f.next, http.StatusSeeOther)
		return
	case err != nil:
		p.errorPage(w, r, unavailable(err))
		return
	}
	p.dropFlow(w, f.flow)
	f.browser.session = session
	if slices.Contains(f.req.prompt, "consent") || alwaysAsked(f.req) || p.mustSignIn(r.Context(), f.req, f.browser, true) {
		p.proceed(w, r, f.req, f.browser, true)
		return
	}
	// The person has just read on the phone who asks for what, and said yes.
	allowed := slices.DeleteFunc(f.req.asked(), func(scope string) bool { return slices.Contains(session.Withheld, scope) })
	if err := p.rememberConsent(r.Context(), f.req, session.Subject, allowed); err != nil {
		p.refuseAuthorize(w, r, f.req, unavailable(err))
		return
	}
	p.grantCode(w, r, f.req, session)
}

// redeemFlow makes the browser's sign-in in the transaction of the redemption: a new sid, which
// the phone knows, under a new cookie, whatever the browser had.
func (p *Provider) redeemFlow(ctx context.Context, w http.ResponseWriter, f *flowForm) (*storage.Session, error) {
	random, err := p.secret()
	if err != nil {
		return nil, err
	}
	var session *storage.Session
	var cookie string
	_, err = p.qr.RedeemHosted(ctx, f.flow, func(ctx context.Context, result qr.Redemption) error {
		cookie = result.SessionID + "." + random
		session = qrBornSession(result)
		session.CookieHash = sha256.Sum256([]byte(cookie))
		// As long as a refresh token of the sign-in's last code can live.
		session.ExpiresAt = result.At.Add(p.config.SessionLifetime + codeLifetime + qrRefreshLifetime + p.config.AccessTokenLifetime)
		for _, scope := range f.req.asked() {
			if !slices.Contains(result.Scopes, scope) {
				session.Withheld = append(session.Withheld, scope)
			}
		}
		p.follow(session, f.browser)
		return p.config.Store.PutSession(ctx, session)
	})
	if err != nil {
		return nil, err
	}
	p.setSession(w, cookie)
	return session, p.endOther(ctx, session, f.browser)
}

// qrNotMe is POST /login/qr/not-me: the person at the browser is not the one who approved.
func (p *Provider) qrNotMe(w http.ResponseWriter, r *http.Request) {
	f, err := p.flowForm(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if err := p.qr.RefuseHosted(r.Context(), f.flow); err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	http.Redirect(w, r, f.next, http.StatusSeeOther)
}

// longestRequest is how long new QR codes keep the time of the request that asked for the first.
// A phone that signed in since then is recent enough for prompt=login, and a page that somebody
// left open must not make that so for hours.
const longestRequest = 3 * storage.QRLifetime

// qrNew is POST /login/qr/new: another QR code for the same request, which keeps its time unless
// it was long ago.
func (p *Provider) qrNew(w http.ResponseWriter, r *http.Request) {
	f, err := p.flowForm(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if err := p.qr.CancelHosted(r.Context(), f.flow); err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	if offersQR(f.req) {
		requestedAt := f.screen.RequestedAt
		if p.config.Now().Sub(requestedAt) > longestRequest {
			requestedAt = time.Time{}
		}
		_, screen, err := p.openFlow(w, r, f.browser, f.req, requestedAt)
		if err != nil {
			p.errorPage(w, r, err)
			return
		}
		if screen != nil {
			p.dropFlow(w, f.flow)
		}
	}
	http.Redirect(w, r, f.next, http.StatusSeeOther)
}
