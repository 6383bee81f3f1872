package provider

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/qrgrant/qrgrant/storage"
)

const purposeConsent = "consent"

// consentView is what the consent page shows.
type consentView struct {
	Action, CSRF, Request string
	Client, Origin        string
	About                 clientView
	Scopes                []string
}

// consentPage asks the person. Its token is bound to the sign-in that was good enough for the
// request, so the answer need not judge prompt and max_age again.
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
	p.renderUnder(w, r, http.StatusOK, "consent", v, v.About.imagesOf(pagePolicy)+formPolicy([]string{v.Origin}))
}

// consent is POST /consent: anything but an explicit yes is a no, and a no takes back what was
// allowed before.
func (p *Provider) consent(w http.ResponseWriter, r *http.Request) {
	b, err := p.browserOf(w, r)
	raw := r.PostForm.Get("request")
	if err == nil {
		err = p.checkForm(b, purposeConsent, raw, r.PostForm.Get("csrf"))
	}
	if err == nil && b.session == nil {
		err = invalidRequest("The sign-in has ended.")
	}
	if err != nil {
		p.errorPage(w, r, err)
		return
	}
	req, err := p.parseAuthorize(r.Context(), raw)
	switch {
	case err != nil:
		p.refuseAuthorize(w, r, req, err)
		return
	case r.PostForm.Get("decision") != "allow":
		err = p.config.Store.DeleteConsent(r.Context(), b.session.Subject, req.client.ID)
	default:
		err = p.rememberConsent(r.Context(), req.client.ID, b.session.Subject, req.asked())
	}
	switch {
	case err != nil:
		p.refuseAuthorize(w, r, req, unavailable(err))
	case r.PostForm.Get("decision") != "allow":
		p.redirectError(w, r, req, "access_denied", "The person refused.")
	default:
		p.grantCode(w, r, req, b.session)
	}
}

// mustConsent reports whether the person has to be asked: when the client wants it, and when
// the request goes beyond what the person allowed before.
func (p *Provider) mustConsent(ctx context.Context, req *authorizeRequest, s *storage.Session) (bool, error) {
	switch {
	case slices.Contains(req.prompt, "consent"):
		return true, nil
	case req.client.FirstParty:
		return false, nil
	case s == nil, !memorable(req):
		return true, nil
	}
	c, err := p.config.Store.Consent(ctx, s.Subject, req.client.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	return slices.ContainsFunc(req.asked(), func(scope string) bool { return !slices.Contains(c.Scopes, scope) }), nil
}

// memorable reports whether an earlier consent may answer for the person: any program on the
// device can play a public client whose redirect stays on it (RFC 8252 §8.6).
func memorable(req *authorizeRequest) bool {
	return !req.client.Public() || req.redirect.Scheme == "https" && !isLoopback(req.redirect.Hostname())
}

// rememberConsent adds what was allowed now to what was allowed before. Of two answers at once
// the later one stands, and the next request asks for what it lacks.
func (p *Provider) rememberConsent(ctx context.Context, clientID, subject string, scopes []string) error {
	c, err := p.config.Store.Consent(ctx, subject, clientID)
	if errors.Is(err, storage.ErrNotFound) {
		c, err = &storage.Consent{Subject: subject, ClientID: clientID}, nil
	}
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		if !slices.Contains(c.Scopes, scope) {
			c.Scopes = append(c.Scopes, scope)
		}
	}
	c.At = p.config.Now()
	return p.config.Store.PutConsent(ctx, c)
}
