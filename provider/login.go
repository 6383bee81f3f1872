package provider

import (
	"context"
	"errors"
	"net/http"

	"github.com/qrgrant/qrgrant/storage"
)

const purposeSignIn = "sign-in"

// signInView is what the sign-in page shows; Next is where the person wanted to go, a path of
// ours with its query.
type signInView struct {
	Action, CSRF, Next   string
	Login, Notice, Fault string
	Client               string
	About                clientView
	// QR is the code beside the form; nil shows none.
	QR     *flowView
	client *authorizeRequest
}

// signInPage shows the form. The token seals Next, so the form cannot be turned into an open
// redirect.
func (p *Provider) signInPage(w http.ResponseWriter, r *http.Request, b *browser, v signInView) {
	token, err := p.sealForm(b, purposeSignIn, v.Next)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	v.Action, v.CSRF = p.pathOf(routeLogin), token
	var targets []string
	if v.client != nil {
		v.Client, v.About = clientName(v.client), viewClient(v.client.client.Client)
		targets = append(targets, formTarget(v.client.redirect))
		if v.QR, err = p.flowPart(w, r, b, v.client, v.Next); err != nil {
			p.errorPage(w, r, err)
			return
		}
	}
	policy := pagePolicy
	if v.QR != nil {
		policy = signInPolicy
	}
	p.renderUnder(w, r, http.StatusOK, "signin", v, v.About.imagesOf(policy)+formPolicy(targets))
}

func clientName(req *authorizeRequest) string {
	return clientLabel(req.client.Client)
}

// login is POST /login.
func (p *Provider) login(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	next := r.PostForm.Get("next")
	if err == nil {
		err = p.checkForm(b, purposeSignIn, next, r.PostForm.Get("csrf"))
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	user, err := p.checkPassword(r, r.PostForm.Get("login"), r.PostForm.Get("password"))
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	req, isAuthorize, parseErr := p.authorizeFor(r.Context(), next)
	var session *storage.Session
	if user != nil {
		session, err = p.signIn(r.Context(), w, user, b)
	}
	if session == nil && err == nil {
		p.signInPage(w, r, b, signInView{Next: next, Login: r.PostForm.Get("login"), Fault: "The user name or the password is wrong.", client: req})
		return
	}
	if err == nil {
		b.session = session
		err = p.rememberBrowser(w, r, accountOf(user.Login))
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	switch {
	case !isAuthorize:
		http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // G710: checkForm has just found our seal on it
	case parseErr != nil:
		p.refuseAuthorize(w, r, req, parseErr)
	default:
		p.leaveFlow(w, r, b, req)
		p.proceed(w, r, req, b, true)
	}
}

// checkPassword returns the person, or nil when name or password is wrong. It works the same
// for a name nobody has.
func (p *Provider) checkPassword(r *http.Request, login, password string) (*storage.User, error) {
	who := accountOf(login)
	try, wait := p.guard.begin(p.clientAddress(r), login, p.knownBrowser(r, who))
	if try == nil {
		return nil, &oauthError{status: http.StatusTooManyRequests, code: "rate_limited", description: "There were too many tries. Wait a few minutes.", wait: wait}
	}
	how := tryUnknown
	defer func() { p.guard.end(try, how) }()
	user, err := p.userByLogin(r.Context(), login)
	if err != nil {
		return nil, err
	}
	hash, err := p.hashOf(r.Context(), user, who)
	if err != nil {
		return nil, err
	}
	ok, err := p.guard.hashes.verify(r.Context(), try.hasher, hash, password)
	if err != nil {
		return nil, err
	}
	if !ok || user == nil || user.Disabled || user.PasswordHash == "" {
		how = tryFailed
		return nil, nil
	}
	how = trySucceeded
	return user, nil
}

func (p *Provider) userByLogin(ctx context.Context, login string) (*storage.User, error) {
	if login == "" || len(login) > 256 {
		return nil, nil
	}
	user, err := p.config.Store.UserByLogin(ctx, login)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return user, nil
}
