package provider

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/storage"
)

const purposeLogout = "logout"

// logoutRequest is a client's wish that the person be signed out (OpenID Connect RP-Initiated
// Logout 1.0 §2). The zero value is the person's own.
type logoutRequest struct {
	raw string
	// hint is what our ID token says; nil without one, and when it is none of ours.
	hint *idTokenClaims
	// redirect is where the person goes afterwards; nil keeps them here. lost says that the
	// request named an address that cannot be used.
	redirect *url.URL
	lost     bool
	state    string
	client   string
	// account is logout_hint: whom the client means, in words of its own.
	account string
}

// signOutView is the page that asks.
type signOutView struct {
	Action, CSRF, Request string
	Name, Client          string
	// Named says that the client means this very account.
	Named bool
	// Lost says that the person will not be led back. Script sends the form at once.
	Lost   bool
	Script string
}

// logout is GET and POST /logout. GET changes nothing: it asks. A client's POST comes back as a
// GET, because Lax cookies do not travel with a form of another site; our own page's POST has
// its token and ends the sign-in.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		values, err := form.Read(w, r)
		if err != nil {
			p.errorPage(w, r, err)
			return
		}
		if values.Has("csrf") {
			p.signOut(w, r)
			return
		}
		http.Redirect(w, r, p.pathOf(routeLogout)+"?"+values.Encode(), http.StatusSeeOther)
		return
	}
	p.askLogout(w, r, r.URL.RawQuery)
}

// askLogout shows the page that asks, or its end when nobody is signed in.
func (p *Provider) askLogout(w http.ResponseWriter, r *http.Request, raw string) {
	req, err := p.parseLogout(r.Context(), raw)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	b, err := p.browserOf(w, r)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if b.session == nil {
		if req.hint == nil {
			// Nobody was asked and nothing but a client_id vouches for the address.
			req.redirect = nil
		}
		p.signedOut(w, r, req)
		return
	}
	p.signOutPage(w, r, req, b)
}

func (p *Provider) signOutPage(w http.ResponseWriter, r *http.Request, req *logoutRequest, b *browser) {
	token, err := p.sealForm(b, purposeLogout, req.raw)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	user, err := p.config.Store.User(r.Context(), b.session.Subject)
	if err != nil {
		p.errorPage(w, r, unavailable(err))
		return
	}
	v := signOutView{Action: p.pathOf(routeLogout), CSRF: token, Request: req.raw, Name: user.Login, Client: req.client, Lost: req.lost, Named: req.names(b.session, user)}
	policy := pagePolicy + "; form-action 'self'"
	if req.redirect != nil {
		policy += " " + formTarget(req.redirect)
	}
	if req.hint != nil && req.hint.SessionID == b.session.ID {
		// The client holds an ID token of this very sign-in: nobody else asks.
		v.Script = p.pathOf(routeSubmit)
		policy += scriptPolicy
	}
	p.renderUnder(w, r, http.StatusOK, "signout", v, policy)
}

// names reports whether a hint of the request is about the person who is signed in (RP-Initiated
// Logout §2). Any other is ignored: it must not tell people apart, nor put words on the page.
func (req *logoutRequest) names(s *storage.Session, user *storage.User) bool {
	if req.hint != nil && req.hint.Subject == s.Subject {
		return true
	}
	return req.account != "" && (req.account == s.ID || req.account == s.Subject || strings.EqualFold(req.account, user.Login))
}

// signOut is the POST of our own page: it ends this browser's sign-in with every token that
// came of it, and the sign-in that the hint names when it is the same person's.
func (p *Provider) signOut(w http.ResponseWriter, r *http.Request) {
	if err := p.origins.Check(r); err != nil {
		p.errorPage(w, r, &oauthError{status: http.StatusForbidden, code: "invalid_request", description: "The form was sent from another site.", cause: err})
		return
	}
	raw := r.PostForm.Get("request")
	b, err := p.browserOf(w, r)
	if err == nil && b.session == nil {
		// It has ended in the meantime, as when the button is pressed twice.
		p.askLogout(w, r, raw)
		return
	}
	if err == nil {
		err = p.checkForm(b, purposeLogout, raw, r.PostForm.Get("csrf"))
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	if r.PostForm.Get("decision") == "stay" {
		p.render(w, r, http.StatusOK, "result", resultView{Heading: "You are still signed in", Sentence: "You can close this page."})
		return
	}
	req, err := p.parseLogout(r.Context(), raw)
	if err == nil {
		err = p.endBrowserSession(r.Context(), b.session, req.hint)
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	p.setSession(w, "")
	p.signedOut(w, r, req)
}

func (p *Provider) endBrowserSession(ctx context.Context, s *storage.Session, hint *idTokenClaims) error {
	err := p.endChain(ctx, s)
	if hint != nil && hint.Subject == s.Subject && hint.SessionID != s.ID {
		err = errors.Join(err, p.endSignIn(ctx, "", hint.SessionID))
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// signedOut leads back to the client with nothing but its state, or says so here.
func (p *Provider) signedOut(w http.ResponseWriter, r *http.Request, req *logoutRequest) {
	if req.redirect == nil {
		p.render(w, r, http.StatusOK, "result", resultView{Heading: "You are signed out", Sentence: "You can close this page."})
		return
	}
	target := *req.redirect
	if req.state != "" {
		target.RawQuery = strings.TrimPrefix(target.RawQuery+"&"+url.Values{"state": {req.state}}.Encode(), "&")
	}
	w.Header().Set("Location", target.String())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// parseLogout reads the parameters. Whatever is wrong with them, the person can still sign out
// here; only the way back is lost.
func (p *Provider) parseLogout(ctx context.Context, raw string) (*logoutRequest, error) {
	if len(raw) > form.MaxBody {
		return nil, invalidRequest("The request is too long.")
	}
	values, err := form.Parse(raw)
	if err != nil {
		return nil, err
	}
	req := &logoutRequest{raw: raw, state: values.Get("state"), account: values.Get("logout_hint")}
	clientID := values.Get("client_id")
	if token := values.Get("id_token_hint"); token != "" {
		req.hint = p.idTokens.hint(ctx, token)
		switch {
		case req.hint == nil:
			clientID = ""
		case clientID != "" && clientID != req.hint.Audience:
			req.hint, clientID = nil, ""
		default:
			clientID = req.hint.Audience
		}
	}
	sent := values.Get("post_logout_redirect_uri")
	client, err := p.tokens.Client(ctx, clientID)
	switch {
	case errors.Is(err, fosite.ErrNotFound):
		req.lost = sent != ""
		return req, nil
	case err != nil:
		return nil, unavailable(err)
	}
	req.client = client.Name
	if slices.Contains(client.PostLogoutRedirectURIs, sent) {
		req.redirect = safeRedirect(sent)
	}
	req.lost = sent != "" && req.redirect == nil
	return req, nil
}
