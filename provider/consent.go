package provider

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	purposeConsent = "consent"
	// consentLifetime is how long the person may think. Until then the sign-in that was good
	// enough for the request when the page was made, its prompt and its max_age, is so still.
	consentLifetime = 10 * time.Minute
)

// consentView is what the consent page shows.
type consentView struct {
	Action, CSRF, Request string
	Client, Origin        string
	About                 clientView
	Scopes                []string
	// Resources are the servers that what is granted is for, beside this one.
	Resources []string
}

// consentPage asks the person. Its token is bound to the sign-in that was good enough for the
// request, so the answer need not judge prompt and max_age again within consentLifetime.
func (p *Provider) consentPage(w http.ResponseWriter, r *http.Request, req *authorizeRequest, b *browser) {
	token, err := p.sealForm(b, purposeConsent, req.raw)
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	v := consentView{
		Action: p.pathOf(routeConsent), CSRF: token, Request: req.raw,
		Client: clientName(req), Origin: redirectOrigin(req.redirect), About: viewClient(req.client.Client),
	}
	for _, s := range req.asked() {
		text := scopeText(s)
		if text == "" {
			text = s
		}
		v.Scopes = append(v.Scopes, text)
	}
	v.Resources = p.beside(req.audience)
	p.renderUnder(w, r, http.StatusOK, "consent", v, v.About.imagesOf(pagePolicy)+formPolicy([]string{formTarget(req.redirect)}))
}

// consent is POST /consent: anything but an explicit yes is a no.
func (p *Provider) consent(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	raw := r.PostForm.Get("request")
	if err == nil {
		err = p.checkConsentForm(b, raw, r.PostForm.Get("csrf"))
	}
	if err == nil && b.session == nil {
		err = invalidRequest("The sign-in has ended.")
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	req, err := p.parseAuthorize(r.Context(), raw, true)
	switch {
	case err != nil:
		p.refuseAuthorize(w, r, req, err)
	case r.PostForm.Get("decision") != "allow":
		if err := p.refused(r.Context(), req, b.session); err != nil {
			p.refuseAuthorize(w, r, req, err)
			return
		}
		p.redirectError(w, r, req, "access_denied", "The person refused.")
	case p.mustSignIn(r.Context(), req, b, true):
		// The client's policy or the person has changed since the page was shown.
		http.Redirect(w, r, p.pathOf(routeAuthorize)+"?"+raw, http.StatusSeeOther) //nolint:gosec // G710: our own path, and our seal is on the query
	default:
		if err := p.rememberConsent(r.Context(), req, b.session.Subject, req.asked()); err != nil {
			p.refuseAuthorize(w, r, req, unavailable(err))
			return
		}
		p.grantCode(w, r, req, b.session)
	}
}

// checkConsentForm is checkForm with a time of its own: the page says that a sign-in will do for
// the request, and must not say so for as long as any other page may stay open.
func (p *Provider) checkConsentForm(b *browser, raw, token string) error {
	at, err := p.sealedAt(b, purposeConsent, raw, token)
	if err != nil {
		return err
	}
	if age := p.config.Now().Sub(at); age < -time.Minute || age > consentLifetime {
		return staleForm()
	}
	return nil
}

// mustConsent reports whether the person has to be asked: when the client wants it, when another
// program could have made the request, and when the request goes beyond what the person allowed
// before. Our own clients are not asked about where the person has just signed in for them.
func (p *Provider) mustConsent(ctx context.Context, req *authorizeRequest, s *storage.Session, fresh bool) (bool, error) {
	switch {
	case slices.Contains(req.prompt, "consent"), alwaysAsked(req):
		return true, nil
	case req.client.FirstParty && (fresh || memorable(req)):
		return false, nil
	case s == nil, !memorable(req):
		return true, nil
	}
	missing, err := p.beyondConsent(ctx, req, s)
	if err != nil {
		return false, unavailable(err)
	}
	return missing, nil
}

// beyondConsent reports whether the request asks for what the person has not allowed before.
func (p *Provider) beyondConsent(ctx context.Context, req *authorizeRequest, s *storage.Session) (bool, error) {
	c, err := p.config.Store.Consent(ctx, s.Subject, req.client.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return beyond(req.asked(), c.Scopes) || beyond(p.beside(req.audience), c.Resources), nil
}

// beyond reports whether anything that is asked for was not allowed.
func beyond(asked, allowed []string) bool {
	return slices.ContainsFunc(asked, func(one string) bool { return !slices.Contains(allowed, one) })
}

// memorable reports whether the request may be answered without anybody at the browser, because
// of an earlier consent or because the client is our own. Any program on the device can play a
// public client whose redirect stays on it, and gets what that client gets (RFC 8252 §8.6). No
// secret helps where the answer makes an approver: an app that stays on the device gives its
// secret to whoever takes it apart. Nor where the answer itself holds tokens, which nobody has to
// redeem.
func memorable(req *authorizeRequest) bool {
	claimed := req.redirect.Scheme == "https" && !isLoopback(req.redirect.Hostname())
	return claimed || !req.client.Public() && !req.types.front() && !slices.Contains(req.scopes, qr.ApproveScope)
}

// refused takes back what was allowed before, if that is what the person was asked about again,
// and uses a pushed request up. A no to more than what was allowed, or to what may be another
// program, leaves the consent as it was.
func (p *Provider) refused(ctx context.Context, req *authorizeRequest, s *storage.Session) error {
	return p.config.Store.Tx(ctx, func(ctx context.Context) error {
		if err := p.usePushed(ctx, req); err != nil {
			return err
		}
		if !memorable(req) {
			return nil
		}
		more, err := p.beyondConsent(ctx, req, s)
		if err == nil && !more {
			err = p.config.Store.DeleteConsent(ctx, s.Subject, req.client.ID)
		}
		if err != nil {
			return unavailable(err)
		}
		return nil
	})
}

// rememberConsent adds what was allowed now, these scopes at all the servers that the request
// names, to what was allowed before. Of two answers at once
// the later one stands, and the next request asks for what it lacks.
func (p *Provider) rememberConsent(ctx context.Context, req *authorizeRequest, subject string, scopes []string) error {
	c, err := p.config.Store.Consent(ctx, subject, req.client.ID)
	if errors.Is(err, storage.ErrNotFound) {
		c, err = &storage.Consent{Subject: subject, ClientID: req.client.ID}, nil
	}
	if err != nil {
		return err
	}
	c.Scopes, c.Resources = union(c.Scopes, scopes), union(c.Resources, p.beside(req.audience))
	c.At = p.config.Now()
	return p.config.Store.PutConsent(ctx, c)
}

// union adds what is new to what was there.
func union(was, is []string) []string {
	for _, one := range is {
		if !slices.Contains(was, one) {
			was = append(was, one)
		}
	}
	return was
}
