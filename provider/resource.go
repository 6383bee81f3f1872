package provider

import (
	"net/url"
	"slices"
	"strings"

	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// mostResources bounds how many resources one request may name.
const mostResources = 16

// targets returns the audience of what a request gets that names these resources (RFC 8707 §2):
// those the client may ask for, and the issuer. None asked for is no audience, but for a token
// that approves, which must be good at no other resource server (protocol §6).
func (p *Provider) targets(client fositestore.Client, scopes, resources []string) ([]string, error) {
	if len(resources) > mostResources {
		return nil, invalidTarget()
	}
	approves := slices.Contains(scopes, qr.ApproveScope)
	var audience []string
	for _, r := range resources {
		allowed := r == p.config.Issuer || slices.Contains(client.Resources, r)
		if approves {
			allowed = r == p.config.Issuer || slices.Contains(client.SharedAudiences, r)
		}
		if !allowed || !isResource(r) {
			return nil, invalidTarget()
		}
		if !slices.Contains(audience, r) {
			audience = append(audience, r)
		}
	}
	if approves && !slices.Contains(audience, p.config.Issuer) {
		audience = append([]string{p.config.Issuer}, audience...)
	}
	return audience, nil
}

// beside are the servers in an audience that are not the issuer, whom people need not be told of.
func (p *Provider) beside(audience []string) []string {
	return slices.DeleteFunc(slices.Clone(audience), func(resource string) bool { return resource == p.config.Issuer })
}

// stillTargets refuses a resource that the client was granted once and may no longer ask for, as
// fosite does with scopes.
func (p *Provider) stillTargets(req fosite.AccessRequester) error {
	client, ok := req.GetClient().(fositestore.Client)
	for _, a := range req.GetGrantedAudience() {
		if a != p.config.Issuer && (!ok || !slices.Contains(client.Resources, a) && !slices.Contains(client.SharedAudiences, a)) {
			return invalidTarget()
		}
	}
	return nil
}

// narrowAudience gives this access token fewer resources than were granted; the refresh token
// beside it keeps all of them (RFC 8707 §2.2).
func (p *Provider) narrowAudience(req fosite.AccessRequester, sess *session, resources []string) error {
	if len(resources) == 0 {
		return nil
	}
	granted := req.GetRequestedAudience() // of the authorization: a token request names none
	var audience []string
	for _, r := range resources {
		if !granted.Has(r) {
			return invalidTarget()
		}
		if !slices.Contains(audience, r) {
			audience = append(audience, r)
		}
	}
	// The scopes of a code are granted later; those asked for then are at least these.
	scopes := req.GetGrantedScopes()
	if len(scopes) == 0 {
		scopes = req.GetRequestedScopes()
	}
	if scopes.Has(qr.ApproveScope) && !slices.Contains(audience, p.config.Issuer) {
		return invalidTarget()
	}
	sess.facts.AccessAudience = audience
	return nil
}

// isResource reports whether a resource indicator is an absolute URI without a fragment
// (RFC 8707 §2).
func isResource(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.IsAbs() && !strings.Contains(raw, "#")
}
