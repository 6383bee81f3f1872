package provider

import (
	"bytes"
	_ "embed" // for the description
	"encoding/json"
	"net/http"

	"github.com/qrgrant/qrgrant/provider/internal/reply"
)

// openAPIDocument describes the endpoints of phones and PCs (OpenAPI 3.1) for openAPIIssuer.
//
//go:embed openapi.json
var openAPIDocument []byte

const openAPIIssuer = "https://issuer.example"

// openAPI is GET /openapi.json: the description for this issuer.
func (p *Provider) openAPI(w http.ResponseWriter, _ *http.Request) {
	quoted, err := json.Marshal(p.config.Issuer)
	if err != nil {
		reply.Fail(w, reply.Failure{Status: http.StatusInternalServerError, Code: "server_error"})
		return
	}
	writeEncoded(w, bytes.ReplaceAll(openAPIDocument, []byte(openAPIIssuer), bytes.Trim(quoted, `"`)))
}
