package provider

import "net/http"

// jwks is GET /jwks. The RS256 key appears once it is made; a relying party that meets an
// unknown kid asks again.
func (p *Provider) jwks(w http.ResponseWriter, _ *http.Request) {
	writeDocument(w, p.keys.publicKeys())
}
