package provider

import "net/http"

const purposeConsent = "consent"

// consentView is what the consent page shows.
type consentView struct {
	Action, CSRF, Request string
	Client, Origin        string
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
		Client: clientName(req), Origin: redirectOrigin(req.redirect),
	}
	for _, s := range req.scopes {
		text := scopeText(s)
		if text == "" {
			text = s
		}
		v.Scopes = append(v.Scopes, text)
	}
	p.render(w, r, http.StatusOK, "consent", v, redirectOrigin(req.redirect))
}

// consent is POST /consent: anything but an explicit yes is a no.
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
	case r.PostForm.Get("decision") != "allow":
		p.redirectError(w, r, req, "access_denied", "The person refused.")
	default:
		p.grantCode(w, r, req, b.session)
	}
}
