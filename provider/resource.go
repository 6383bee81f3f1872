package provider

import (
	"net/url"
	"slices"
	"strings"

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

// isResource reports whether a resource indicator is an absolute URI without a fragment
// (RFC 8707 §2).
func isResource(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.IsAbs() && !strings.Contains(raw, "#")
}
