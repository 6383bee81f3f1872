package provider

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// authorize is GET, HEAD and POST /authorize (RFC 6749 §4.1.1). GET changes nothing but this
// browser's cookies, and HEAD only says whether the request is a good one. A POST comes back as a GET, because a session cookie that is SameSite=Lax
// does not travel with a form from another site.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		values, err := form.Fields(w, r)
		if err != nil {
			p.errorPage(w, r, err)
			return
		}
		http.Redirect(w, r, p.pathOf(routeAuthorize)+"?"+values.Encode(), http.StatusSeeOther)
		return
	}
	req, err := p.arriving(r)
	if err != nil {
		p.refuseAuthorize(w, r, req, err)
		return
	}
	r = carrying(r, req.raw)
	if r.Method == http.MethodHead {
		// Whatever GET would make, a code or a QR session, nobody would get to see.
		secureHeaders(w, pagePolicy+formPolicy(nil))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		return
	}
	b, err := p.browserOf(w, r)
	if err != nil {
		p.refuseAuthorize(w, r, req, err)
		return
	}
	p.proceed(w, r, req, b, false)
}

// arriving reads a request that comes from the client, or from a page of ours that sends the
// browser back to where it began. For that, the QR code which this browser shows for the request
// vouches as a form does: the request was in time when it came.
func (p *Provider) arriving(r *http.Request) (*authorizeRequest, error) {
	req, err := p.parseAuthorize(r.Context(), r.URL.RawQuery, false)
	var late *lateRequest
	if errors.As(err, &late) && p.showsFlow(r, late.raw) {
		return p.parseAuthorize(r.Context(), r.URL.RawQuery, true)
	}
	return req, err
}

// carrying returns the request with the query that its pages carry, where uiLocales looks.
func carrying(r *http.Request, raw string) *http.Request {
	address := *r.URL
	address.RawQuery = raw
	carried := r.WithContext(r.Context())
	carried.URL = &address
	return carried
}

// lateRequest is the cause of the error for a request that came after its time.
type lateRequest struct{ raw string }

func (*lateRequest) Error() string { return "provider: the authorization request came too late" }

// proceed is the one decision point of the code flow: sign in, ask, or answer. fresh says that
// the person has just signed in for this very request, so that prompt=login and max_age=0 do
// not ask for ever.
func (p *Provider) proceed(w http.ResponseWriter, r *http.Request, req *authorizeRequest, b *browser, fresh bool) {
	silent := slices.Contains(req.prompt, "none")
	ask, err := p.mustConsent(r.Context(), req, b.session, fresh)
	switch {
	case err != nil:
		p.refuseAuthorize(w, r, req, err)
	case fresh && b.session != nil && !req.claims.meetsACR(b.session):
		// No way to sign in here is what the client asks for (Unmet Authentication Requirements).
		p.redirectError(w, r, req, "unmet_authentication_requirements", "The person cannot sign in the way that was asked for.")
	case p.mustSignIn(r.Context(), req, b, fresh):
		if silent || fresh {
			p.redirectError(w, r, req, "login_required", "The person has to sign in.")
			return
		}
		p.signInPage(w, r, b, signInView{Next: p.pathOf(routeAuthorize) + "?" + req.raw, Login: req.loginHint, client: req})
	case ask:
		if silent {
			p.redirectError(w, r, req, "consent_required", "The person has to be asked.")
			return
		}
		p.consentPage(w, r, req, b)
	default:
		p.grantCode(w, r, req, b.session)
	}
}

// mustSignIn reports whether this browser's sign-in cannot answer the request.
func (p *Provider) mustSignIn(ctx context.Context, req *authorizeRequest, b *browser, fresh bool) bool {
	s := b.session
	switch {
	case s == nil:
		return true
	case s.QRBorn && !qrBornMayUse(req.client, req.asked()):
		return true
	case req.hint != nil && !p.idTokens.isAbout(ctx, req.hint, s.Subject):
		return true
	case !p.meetsClaims(ctx, req, s):
		return true
	case fresh:
		return false
	case slices.Contains(req.prompt, "login"), slices.Contains(req.prompt, "select_account"):
		return true
	case req.maxAge != nil:
		age := p.config.Now().Sub(s.AuthTime)
		return *req.maxAge == 0 || age > time.Duration(*req.maxAge)*time.Second
	}
	return false
}

// grantCode answers the request: with a code, and with what else it asked for (frontchannel.go).
// Everything that is made, and the use of a pushed request, is one unit of work.
func (p *Provider) grantCode(w http.ResponseWriter, r *http.Request, req *authorizeRequest, s *storage.Session) {
	var answer url.Values
	err := p.config.Store.Tx(r.Context(), func(ctx context.Context) error {
		var err error
		if answer, err = p.answer(ctx, req, s); err != nil {
			return err
		}
		if err := p.usePushed(ctx, req); err != nil {
			return err
		}
		if err := p.granted(ctx, req.client.Client); err != nil {
			return err
		}
		// Whoever got something of this sign-in hears of its end (logout.go).
		return p.config.Store.AddSessionClient(ctx, s.ID, req.client.ID)
	})
	if err != nil {
		p.refuseAuthorize(w, r, req, err)
		return
	}
	p.redirectBack(w, r, req, answer)
}

// fositeRequest is the request as fosite wants it, with what is granted, and the facts behind it.
// Parsing was ours, because fosite insists on a long state and follows request objects.
func (p *Provider) fositeRequest(req *authorizeRequest, s *storage.Session) (*fosite.AuthorizeRequest, fositestore.Facts) {
	ar := fosite.NewAuthorizeRequest()
	ar.Client = req.client
	ar.RedirectURI = req.redirect
	ar.ResponseTypes = fosite.Arguments{"code"}
	ar.ResponseMode = fosite.ResponseModeQuery
	ar.State = req.state
	ar.RequestedScope = req.scopes
	// What the person left out on the phone stays out, whoever asks again and in whatever words.
	withheld := func(scope string) bool { return slices.Contains(s.Withheld, scope) }
	ar.GrantedScope = slices.DeleteFunc(slices.Clone(req.scopes), withheld)
	claims := req.claims.without(withheld)
	ar.GrantedAudience = req.audience
	ar.Form = url.Values{}
	if req.redirectSent {
		ar.Form.Set("redirect_uri", req.values.Get("redirect_uri"))
	}
	if req.challenge != "" {
		ar.Form.Set("code_challenge", req.challenge)
	}
	return ar, fositestore.Facts{
		Subject: s.Subject, SessionID: s.ID, ParentID: s.ParentID, ApproverID: s.ApproverID, QRBorn: s.QRBorn,
		AuthTime: s.AuthTime, AMR: s.AMR, ACR: s.ACR, Nonce: req.values.Get("nonce"), JKT: req.jkt,
		UserinfoClaims: claims.userinfo, IDTokenClaims: claims.idToken,
	}
}

// refuseAuthorize sends an error to the client when its redirect URI is known to be good, and
// to the person otherwise.
func (p *Provider) refuseAuthorize(w http.ResponseWriter, r *http.Request, req *authorizeRequest, err error) {
	if req != nil && req.pushed != nil && errors.Is(err, storage.ErrConflict) {
		// Another browser was faster, or this one in another tab. Only that one's answer counts.
		req, err = nil, pastRequest(err)
	}
	if req == nil {
		p.errorPage(w, r, err)
		return
	}
	own := authorizeError(err)
	// A browser that is gone is no failure of ours.
	if own.status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		p.config.Logger.ErrorContext(r.Context(), "authorization failed", "client_id", req.client.ID, "error", err)
	}
	p.redirectError(w, r, req, own.code, own.description)
}

// authorizeError says in the codes of RFC 6749 §4.1.2.1 what fosite and the store report. A code
// that the token endpoint alone knows means that we failed.
func authorizeError(err error) *oauthError {
	var own *oauthError
	if errors.As(err, &own) {
		return own
	}
	if own = tokenError(err); own.code == "invalid_grant" || own.code == "invalid_client" {
		return serverError(err)
	}
	return own
}

func (p *Provider) redirectError(w http.ResponseWriter, r *http.Request, req *authorizeRequest, code, sentence string) {
	p.redirectBack(w, r, req, url.Values{"error": {code}, "error_description": {sentence}})
}

// redirectBack adds state and iss (RFC 9207), keeping the query the URI was registered with.
func (p *Provider) redirectBack(w http.ResponseWriter, r *http.Request, req *authorizeRequest, answer url.Values) {
	if req.state != "" {
		answer.Set("state", req.state)
	}
	answer.Set("iss", p.config.Issuer)
	target := *req.redirect
	location := ""
	switch req.mode {
	case fosite.ResponseModeFormPost:
		p.postBack(w, r, req, answer)
		return
	case fosite.ResponseModeFragment:
		location = target.String() + "#" + answer.Encode()
	default:
		target.RawQuery = strings.TrimPrefix(target.RawQuery+"&"+answer.Encode(), "&")
		location = target.String()
	}
	w.Header().Set("Location", location)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// authorizeFor parses what a form carried over from a GET, for the pages in between. The caller
// has found our seal on it, or its flow.
func (p *Provider) authorizeFor(ctx context.Context, next string) (req *authorizeRequest, found bool, err error) {
	raw, ok := strings.CutPrefix(next, p.pathOf(routeAuthorize)+"?")
	if !ok {
		return nil, false, nil
	}
	req, err = p.parseAuthorize(ctx, raw, true)
	return req, true, err
}
